"""What a search learns from earlier studies: targets, weights, first points, and the mean of the sampler's model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from pydantic import JsonValue
from scipy.special import ndtri

from rayvldd.config.domains import ChoiceDomain, Domain, FloatDomain, IntDomain, SettingValue, as_number
from rayvldd.config.space import Space
from rayvldd.hyperparameter_search.descriptors import Descriptors
from rayvldd.hyperparameter_search.learned_sources import (
    NEAR,
    LearnedSources,
    Result,
    start_points,
)
from rayvldd.hyperparameter_search.source_model import (
    Outcome,
    Source,
    SourceModel,
    point_by_name,
    quantile_targets,
    wins,
)
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates

DOMAINS: dict[str, Domain] = {
    "rate": FloatDomain(type="float", low=1, high=1000, log=True),
    "steps": IntDomain(type="int", low=1, high=20),
}
SPACE = Space(DOMAINS, {})
LAST = 16


def recall_at(point: Mapping[str, SettingValue], best_rate: float = 30.0) -> float:
    """Best at a rate and at 10 steps."""
    away = math.log10(as_number(point["rate"]) / best_rate) ** 2
    return 20 - 4 * away - 0.02 * (as_number(point["steps"]) - 10) ** 2


def outcome_at(point: Mapping[str, SettingValue], last: int = LAST, scale: float = 1.0) -> Outcome:
    return Outcome({step: scale * recall_at(point) * (1 - math.exp(-step / 5)) for step in range(2, last + 1, 2)})


def points(number: int, seed: int = 0) -> list[dict[str, SettingValue]]:
    coordinates = SpaceCoordinates(SPACE)
    return [coordinates.point_of(units) for units in coordinates.draw(np.random.default_rng(seed), number)]


def source(name: str = "same", number: int = 40, seed: int = 1, distance: float = 0.0) -> Source:
    """A study whose recalls are half of those of the present one, in the same order."""
    known = points(number, seed)
    return Source(name, known, [outcome_at(point, scale=0.5) for point in known], distance)


def backwards(one: Source) -> Source:
    """A source with the outcomes of the best points at the worst ones, and so on."""
    order = np.argsort(quantile_targets(one.outcomes), kind="stable")
    outcomes = dict(zip(order.tolist(), (one.outcomes[index] for index in order[::-1]), strict=True))
    return replace(one, name="reversed", outcomes=[outcomes[index] for index in range(len(order))])


def shuffled(one: Source, seed: int) -> Source:
    order = np.random.default_rng(seed).permutation(len(one.outcomes))
    return replace(one, name="shuffled", outcomes=[one.outcomes[index] for index in order])


def results_at(known: Sequence[Mapping[str, SettingValue]]) -> list[Result]:
    units, active = SpaceCoordinates(SPACE).units_of(known)
    return [Result(units[row], active[row], outcome_at(point)) for row, point in enumerate(known)]


# --- targets ------------------------------------------------------------------------------------------------------


def test_trials_are_compared_at_the_last_step_that_both_have() -> None:
    finished, stopped = Outcome({2: 5.0, 4: 9.0}), Outcome({2: 6.0})
    falling, failed, none = Outcome({2: 7.0, 4: 1.0}), Outcome({2: 99.0}, failed=True), Outcome({})
    found = wins([finished, stopped, falling, failed, none])
    assert found.tolist() == [
        [0, -1, 1, 1, 1],
        [1, 0, -1, 1, 1],
        [-1, 1, 0, 1, 1],
        [-1, -1, -1, 0, -1],
        [-1, -1, -1, 1, 0],
    ]
    assert (found == -found.T).all()
    assert wins([Outcome({}), Outcome({}, failed=True)]).tolist() == [[0, 1], [-1, 0]]


def test_targets_are_quantiles_of_ranks_and_failures_share_the_lowest() -> None:
    finished = [Outcome({2: 1.0, 4: height}) for height in (3.0, 9.0, 6.0)]
    failed = [Outcome({}, failed=True), Outcome({2: 50.0}, failed=True)]
    expected = ndtri((np.array([3, 5, 4, 1.5, 1.5]) - 0.5) / 5)
    assert quantile_targets([*finished, *failed]) == pytest.approx(expected)


def test_a_trial_that_was_stopped_is_not_taken_for_finished() -> None:
    """It had led at its last step, so it is above those that it led, although they reached more later."""
    later = [Outcome({2: 1.0 + index, 4: 10.0 + index}) for index in range(4)]
    targets = quantile_targets([*later, Outcome({2: 9.0})])
    assert targets[-1] == max(targets)
    assert quantile_targets([*later, Outcome({2: 0.5})])[-1] == min(targets)


# --- settings by name ---------------------------------------------------------------------------------------------


def test_settings_are_found_by_name_inside_and_near_the_space() -> None:
    at: dict[str, JsonValue] = {"rate": 20.0, "steps": 4, "other": "text"}
    assert point_by_name(at, SPACE) == {"rate": 20.0, "steps": 4}
    assert point_by_name({**at, "rate": 5000.0}, SPACE) == {"rate": 5000.0, "steps": 4}, "less than a width outside"
    assert point_by_name({**at, "rate": 10.0**7}, SPACE) is None
    assert point_by_name({**at, "rate": 0.0}, SPACE) is None, "it has no logarithm"
    assert point_by_name({"steps": 4}, SPACE) == {"steps": 4}, "a setting that another method does not have"
    choice = ChoiceDomain(type="choice", values=("a", ("b", "c"), None, True))
    only = IntDomain(type="int", low=1, high=3, when={"kind": ("a",)})
    space = Space({"kind": choice, "of_a": only}, {})
    assert point_by_name({"kind": ["b", "c"], "of_a": 2}, space) == {"kind": ("b", "c")}
    assert point_by_name({"kind": "a", "of_a": 2}, space) == {"kind": "a", "of_a": 2}
    assert point_by_name({"kind": None}, space) == {"kind": None}
    assert point_by_name({"kind": "z", "of_a": 2}, space) is None
    assert point_by_name({"kind": 1}, space) is None, "1 is not true"


def test_studies_are_the_farther_apart_the_more_they_differ() -> None:
    own = Descriptors(50, 64, "trajectory_matching", "sgd", "heads_only", "mobilenet", "mean bert", "folder")
    assert own.distance(own) == 0
    assert own.distance(replace(own, num_pairs=500)) == pytest.approx(0.5)
    assert own.distance(replace(own, image_size=128)) == pytest.approx(0.25)
    assert own.distance(replace(own, num_pairs=math.nan)) == 0, "not known"
    both = own.distance(replace(own, protocol="lora", num_pairs=5))
    scaled = own.distance(replace(own, outer_optimiser="scaled_sgd"))
    assert scaled == pytest.approx(0.7), "rates of another optimiser are on another scale"
    matched = replace(own, method="covariance")
    assert own.distance(matched) == own.distance(replace(matched, outer_optimiser="adam")) == 1
    assert both == pytest.approx(0.7 + 0.5) and both > own.distance(replace(own, text_encoder="hashed"))


# --- weights ------------------------------------------------------------------------------------------------------


def test_a_model_predicts_points_that_it_does_not_know() -> None:
    coordinates, known = SpaceCoordinates(SPACE), points(30, seed=5)
    model = SourceModel(coordinates, source())
    predicted = model.predict(*coordinates.units_of(known))
    assert np.corrcoef(predicted, quantile_targets([outcome_at(point) for point in known]))[0, 1] > 0.9
    assert model.skill > 0.8
    assert SourceModel(coordinates, shuffled(source(), 0)).skill < 0.3
    few = [SourceModel(coordinates, shuffled(source(number=5), seed)).skill for seed in range(8)]
    assert min(few) >= 4 / 13 and np.mean(few) < 0.6, "five trials hardly show whether there is an order"


def test_settings_that_a_source_does_not_have_make_no_difference() -> None:
    one = source()
    without = replace(one, points=[{"rate": point["rate"]} for point in one.points])
    coordinates = SpaceCoordinates(SPACE)
    model = SourceModel(coordinates, without)
    at = [{"rate": 30.0, "steps": steps} for steps in (1, 20)]
    assert np.ptp(model.predict(*coordinates.units_of(at))) == 0


def test_the_weight_of_a_source_follows_the_results() -> None:
    learned = LearnedSources(SPACE, [source(distance=0.5), backwards(source()), shuffled(source(), 0)], seed=0)
    names = [one.name for one in learned.sources]
    same, wrong, noise = (names.index(name) for name in ("same", "reversed", "shuffled"))
    before = learned.weights([])
    assert before[wrong] > before[same] > 0.3 > before[noise], "nothing is known of the agreement yet"
    history = [learned.weights(results_at(points(number, seed=3))) for number in (1, 3, 6, 20)]
    assert history[0].tolist() == before.tolist(), "one result has no order"
    assert history[2][wrong] == 0 and history[3][wrong] == 0
    assert before[same] < history[2][same] < history[3][same] and history[3][same] > 0.8
    assert history[3][noise] < 0.5 * history[3][same]


def test_results_at_points_that_a_source_takes_for_equal_say_little() -> None:
    learned = LearnedSources(SPACE, [source()], seed=0)
    alike: list[dict[str, SettingValue]] = [{"rate": 30.0 + 0.01 * index, "steps": 10} for index in range(4)]
    units, active = SpaceCoordinates(SPACE).units_of(alike)
    outcomes = [Outcome({2: 5.0 - index}) for index in range(4)]
    results = [Result(units[row], active[row], outcome) for row, outcome in enumerate(outcomes)]
    assert learned.weights(results)[0] == pytest.approx(learned.weights([])[0], abs=0.05)


def test_small_and_far_studies_are_no_sources() -> None:
    assert LearnedSources(SPACE, [source(number=4)], seed=0).sources == []
    far = LearnedSources(SPACE, [source(distance=3.0)], seed=0)
    assert far.weights([]).tolist() == [0.0] and far.first_points() == []
    many = LearnedSources(SPACE, [source(f"at {index}", 6, distance=0.1 * index) for index in range(12)], seed=0)
    assert [one.name for one in many.sources] == [f"at {index}" for index in range(8)]


# --- first points -------------------------------------------------------------------------------------------------


def test_the_first_points_are_good_ones_of_the_sources_and_differ() -> None:
    learned = LearnedSources(SPACE, [source("a"), source("b", seed=2, distance=0.3)], seed=0)
    first = learned.first_points()
    assert len(first) == 3 and all(point in [*learned.sources[0].points, *learned.sources[1].points] for point in first)
    recalls = sorted(recall_at(point) for one in learned.sources for point in one.points)
    assert recall_at(first[0]) >= recalls[-4]
    assert all(recall_at(point) >= np.median(recalls) for point in first)
    units = SpaceCoordinates(SPACE).units_of(first)[0]
    assert all(np.abs(units[i] - units[j]).max() > NEAR for i in range(3) for j in range(i))
    assert LearnedSources(SPACE, list(learned.sources), seed=0).first_points() == first, (
        "the same seed, the same points"
    )


def test_points_outside_the_space_are_not_run() -> None:
    one = source()
    outside = replace(one, points=[{**point, "steps": 25} for point in one.points])
    assert LearnedSources(SPACE, [outside], seed=0).first_points() == []


def test_published_points_that_a_source_has_run_are_not_run_again() -> None:
    learned = LearnedSources(SPACE, [source()], seed=0)
    run, new = dict(learned.sources[0].points[7]), {"rate": 1.0, "steps": 20}
    near = {**run, "rate": as_number(run["rate"]) * 1000 ** (0.5 * NEAR)}
    assert not learned.was_run(new)
    assert start_points([run, near, new], learned) == [*learned.first_points(), new]
    part = {"rate": run["rate"]}
    assert start_points([part], learned)[3:] == [part], "the sampler adds a number of steps, which may be new"
    dropped = LearnedSources(SPACE, [replace(source(), distance=3.0)], seed=0)
    assert start_points([run, near, new], dropped) == [run, near, new]


# --- the mean of the sampler's model --------------------------------------------------------------------------------


def trials_until_best(sources: list[Source], seed: int, most: int = 14) -> int:
    """Trials until one is within 0.15 of the best recall, with the points of the sources first."""
    import optuna

    from rayvldd.hyperparameter_search.curves_sampler import CurvesSampler
    from rayvldd.hyperparameter_search.optuna_samplers import suggest

    learned = LearnedSources(SPACE, sources, seed)
    sampler = CurvesSampler(SPACE, lambda point: LAST, LAST, seed=seed, num_start_trials=4)
    sampler.learn_from(learned)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=optuna.pruners.NopPruner())
    for point in learned.first_points():
        study.enqueue_trial(point)
    for number in range(1, most + 1):
        trial = study.ask()
        point = suggest(trial, SPACE)
        for step, recall in outcome_at(point).recalls.items():
            trial.report(recall, step)
        study.tell(trial, recall_at(point))
        if recall_at(point) > 20 - 0.15:
            return number
    return most + 1


def test_an_equal_source_is_found_again_at_once_and_a_wrong_one_does_no_lasting_harm() -> None:
    seeds = range(4)
    alone = [trials_until_best([], seed) for seed in seeds]
    same = [trials_until_best([source(seed=10 + seed)], seed) for seed in seeds]
    wrong = [trials_until_best([backwards(source(seed=10 + seed))], seed) for seed in seeds]
    assert np.mean(same) <= 3 < np.mean(alone)
    assert np.mean(wrong) <= np.mean(alone) + 3, "its three points, and no more"
