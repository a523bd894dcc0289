"""The sampler ``curves``: coordinates, proposals, what it learns of failed and running trials, and its fall-backs."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, FloatDomain, IntDomain, SettingValue, as_number
from rayvldd.config.space import Space
from rayvldd.hyperparameter_search.curves_sampler import CurvesSampler
from rayvldd.hyperparameter_search.optuna_samplers import suggest
from rayvldd.hyperparameter_search.optuna_trials import FAILED, distribution_of, optuna_value
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates

RATE = FloatDomain(type="float", low=1, high=1000, log=True)
TWO: dict[str, Domain] = {"rate": RATE, "steps": IntDomain(type="int", low=1, high=20)}
LOW_RANK: dict[str, tuple[SettingValue, ...]] = {"similarity": ("low_rank",)}
BRANCHES: dict[str, Domain] = {
    **TWO,
    "similarity": ChoiceDomain(type="choice", values=("identity", "low_rank")),
    "loss": FixedDomain(type="fixed", value="bce", when=LOW_RANK),
    "rank": IntDomain(type="int", low=5, high=40, step=5, when=LOW_RANK),
    "alpha": FloatDomain(type="float", low=0.01, high=10, log=True, when=LOW_RANK),
}
KINDS: dict[str, Domain] = {
    **BRANCHES,
    "grid": FloatDomain(type="float", low=0.5, high=2.0, step=0.25),
    "log_int": IntDomain(type="int", low=1, high=64, log=True),
    "wide": IntDomain(type="int", low=0, high=10**6),
    "lists": ChoiceDomain(type="choice", values=((), ("color",), None)),
    "one": ChoiceDomain(type="choice", values=(7,)),
    "point": FloatDomain(type="float", low=3, high=3),
}
LAST = 16
Direction = Literal["minimize", "maximize"]


def sampler_of(domains: Mapping[str, Domain], starts: int = 3, seed: int = 0) -> CurvesSampler:
    return CurvesSampler(Space(domains, {}), lambda point: LAST, LAST, seed=seed, num_start_trials=starts)


def study_of(sampler: optuna.samplers.BaseSampler, directions: tuple[Direction, ...] = ("maximize",)) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=sampler, directions=list(directions), pruner=optuna.pruners.NopPruner())


def recall_at(point: Mapping[str, SettingValue], step: int) -> float:
    """Best at a rate of 30, whatever the other settings."""
    height = 20 - 4 * math.log10(as_number(point["rate"]) / 30) ** 2
    return height * (1 - math.exp(-step / 5))


def trial_at(
    domains: Mapping[str, Domain], point: Mapping[str, Any], last: int = LAST, state: TrialState = TrialState.COMPLETE
) -> optuna.trial.FrozenTrial:
    """A trial with the recalls of :func:`recall_at` up to an outer step; one that was pruned has failed."""
    drawn = {key: domain for key, domain in domains.items() if not isinstance(domain, FixedDomain)}
    trial = optuna.trial.create_trial(
        state=state,
        value=recall_at(point, last) if state is TrialState.COMPLETE else None,
        params={key: optuna_value(value) for key, value in point.items() if key in drawn},
        distributions={key: distribution_of(drawn[key]) for key in point if key in drawn},
        intermediate_values={step: recall_at(point, step) for step in range(2, last + 1, 2)},
    )
    if state is TrialState.PRUNED:
        trial.set_user_attr(FAILED, True)
    return trial


def random_points(domains: Mapping[str, Domain], number: int, seed: int = 0) -> list[dict[str, SettingValue]]:
    coordinates = SpaceCoordinates(Space(domains, {}))
    return [coordinates.point_of(units) for units in coordinates.draw(np.random.default_rng(seed), number)]


def proposal(sampler: CurvesSampler, trials: list[optuna.trial.FrozenTrial]) -> dict[str, SettingValue]:
    study = study_of(sampler)
    study.add_trials(trials)
    return suggest(study.ask(), sampler._coordinates.space)


# --- coordinates --------------------------------------------------------------------------------------------------


def test_points_survive_the_conversion_to_units() -> None:
    coordinates, generator = SpaceCoordinates(Space(KINDS, {})), np.random.default_rng(0)
    drawn = coordinates.draw(generator, 300)
    moved = coordinates.near(generator, drawn, 1, 0.1)
    for row in [*drawn, *moved]:
        point = coordinates.point_of(row)
        assert all(value in KINDS[key] for key, value in point.items())
        assert ("rank" in point) == ("loss" in point) == (point["similarity"] == "low_rank")
        units, active = coordinates.units_of([point])
        again = coordinates.point_of(units[0])
        for key, value in point.items():
            assert again[key] == (pytest.approx(value) if isinstance(value, float) else value)
        assert (coordinates.active_at(row[None, :]) == active).all()
    values = [{coordinates.point_of(row)[key] for row in drawn} for key in ("grid", "lists")]
    assert [len(found) for found in values] == [7, 3]


def test_neighbours_are_near_and_differ() -> None:
    coordinates, generator = SpaceCoordinates(Space(TWO, {})), np.random.default_rng(0)
    start = coordinates.draw(generator, 1)
    far, close = (np.abs(coordinates.near(generator, start, 200, d) - start).mean() for d in (0.2, 0.02))
    assert 0 < close < far < 0.2


def test_inactive_settings_have_one_place_and_an_indicator() -> None:
    coordinates = SpaceCoordinates(Space(BRANCHES, {}))
    shared: dict[str, SettingValue] = {"rate": 30.0, "steps": 4}
    low_rank: dict[str, SettingValue] = {**shared, "similarity": "low_rank", "loss": "bce", "rank": 40, "alpha": 10.0}
    units, active = coordinates.units_of([{**shared, "similarity": "identity"}, low_rank])
    found = coordinates.coordinates(units, active)
    one_hot = 1 / math.sqrt(2)
    assert found[0, 2:].tolist() == pytest.approx([one_hot, 0, 0.5, 0.5, 0])
    assert found[1, 2:].tolist() == pytest.approx([0, one_hot, 1, 1, 1])


# --- expected gain ------------------------------------------------------------------------------------------------


def test_the_expected_gain_falls_with_what_is_known() -> None:
    few, many = sampler_of(TWO), sampler_of(TWO)
    assert few.expected_gain is None
    proposal(few, [trial_at(TWO, point) for point in random_points(TWO, 4)])
    rates, steps = (20.0, 26.0, 30.0, 34.0, 45.0), (2, 9, 16)
    around: list[dict[str, SettingValue]] = [{"rate": rate, "steps": step} for rate in rates for step in steps]
    proposal(many, [trial_at(TWO, point) for point in [*random_points(TWO, 20), *around]])
    assert few.expected_gain is not None and many.expected_gain is not None
    assert few.expected_gain > 4 * many.expected_gain > 0


def test_where_tpe_proposes_no_gain_is_known() -> None:
    sampler = sampler_of(TWO)
    proposal(sampler, [trial_at(TWO, point) for point in random_points(TWO, 4)])
    proposal(sampler, [trial_at(TWO, point) for point in random_points(TWO, 2)])
    assert sampler.expected_gain is None


# --- proposals ----------------------------------------------------------------------------------------------------


def test_the_same_history_gives_the_same_proposal() -> None:
    trials = [trial_at(TWO, point, 6) for point in random_points(TWO, 6)]
    first, used = sampler_of(TWO), sampler_of(TWO)
    proposal(used, trials[:4])  # an earlier call changes nothing
    assert proposal(first, trials) == proposal(used, trials)
    assert proposal(first, trials) != proposal(sampler_of(TWO, seed=1), trials)
    assert proposal(first, trials) != proposal(first, [*trials, trial_at(TWO, {"rate": 5.0, "steps": 3})])


def test_proposals_approach_the_best_point() -> None:
    sampler = sampler_of(TWO)
    study = study_of(sampler)
    study.add_trials([trial_at(TWO, point, 4) for point in random_points(TWO, 3, seed=2)])
    rates = []
    for _ in range(8):
        point = suggest(study.ask(), Space(TWO, {}))
        rates.append(as_number(point["rate"]))
        study.tell(study.trials[-1].number, state=TrialState.FAIL)
        study.add_trial(trial_at(TWO, point, 4))
    assert all(abs(math.log10(rate / 30)) < 0.3 for rate in rates[-3:])


def test_failures_are_avoided() -> None:
    good = [trial_at(TWO, {"rate": rate, "steps": 5}) for rate in (1.0, 3.0, 10.0)]
    bad = [trial_at(TWO, {"rate": rate, "steps": 5}, 2) for rate in (40.0, 60.0, 90.0, 200.0)]
    failed = [trial_at(TWO, {"rate": rate, "steps": 5}, 2, TrialState.PRUNED) for rate in (40.0, 60.0, 90.0, 200.0)]
    stopped_early, avoided = (as_number(proposal(sampler_of(TWO), [*good, *more])["rate"]) for more in (bad, failed))
    assert avoided < 0.9 * stopped_early


def test_a_running_trial_is_not_proposed_again() -> None:
    trials = [trial_at(TWO, point) for point in random_points(TWO, 4)]
    sampler = sampler_of(TWO)
    study = study_of(sampler)
    study.add_trials(trials)
    first, second, third = (suggest(study.ask(), Space(TWO, {})) for _ in range(3))
    units = sampler._coordinates.units_of([first, second, third])[0]
    assert min(np.abs(units[i] - units[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.05
    running = [trial for trial in study.trials if trial.state is TrialState.RUNNING]
    assert len(running) == 3


def test_curves_of_running_and_stopped_trials_are_used() -> None:
    few = [trial_at(TWO, point) for point in random_points(TWO, 3, seed=4)]
    promising = {"rate": 30.0, "steps": 10}
    predictions = []
    for state, last in ((TrialState.RUNNING, 0), (TrialState.RUNNING, 8), (TrialState.COMPLETE, 8)):
        sampler = sampler_of(TWO)
        proposal(sampler, [*few, trial_at(TWO, promising, last, state)])
        predictions.append(sampler.predicted(promising))
    nothing, running, stopped = (found for found in predictions if found is not None)
    truth = recall_at(promising, LAST)
    assert abs(running.recall - truth) < abs(nothing.recall - truth) and running.sd < nothing.sd
    assert running == stopped


def test_given_settings_are_kept_and_the_point_is_predicted() -> None:
    sampler = sampler_of(BRANCHES)
    study = study_of(sampler)
    study.add_trials([trial_at(BRANCHES, point) for point in random_points(BRANCHES, 8)])
    study.enqueue_trial({"rate": 300.0})
    point = suggest(study.ask(), Space(BRANCHES, {}))
    assert point["rate"] == 300.0
    prediction = sampler.predicted(point)
    assert prediction is not None and abs(prediction.recall - recall_at(point, LAST)) < 3 * prediction.sd
    good, poor = sampler.predicted({**point, "rate": 30.0}), sampler.predicted({**point, "rate": 1000.0})
    assert good is not None and poor is not None and good.recall > poor.recall


def test_known_points_of_a_finite_space_are_not_proposed() -> None:
    domains: dict[str, Domain] = {"rate": IntDomain(type="int", low=1, high=3), "steps": TWO["steps"]}
    domains["steps"] = IntDomain(type="int", low=1, high=3)
    points = [{"rate": rate, "steps": steps} for rate in (1, 2, 3) for steps in (1, 2, 3)]
    for left in (points[4], points[8]):
        known = [trial_at(domains, point) for point in points if point != left]
        assert proposal(sampler_of(domains), known) == left


def test_the_model_reads_no_repeated_result_twice() -> None:
    trials = [trial_at(TWO, point) for point in random_points(TWO, 4)]
    one, other = sampler_of(TWO), sampler_of(TWO)
    proposal(one, trials)
    proposal(other, [*trials, *trials[:2]])
    assert one.predicted({"rate": 30.0, "steps": 4}) == other.predicted({"rate": 30.0, "steps": 4})


# --- fall-backs ---------------------------------------------------------------------------------------------------


def uses_model(sampler: CurvesSampler, trials: list[optuna.trial.FrozenTrial]) -> bool:
    point = proposal(sampler, trials)
    return sampler.predicted(point) is not None


def test_the_model_waits_for_its_start_trials() -> None:
    trials = [trial_at(TWO, point) for point in random_points(TWO, 6)]
    lost = [trial_at(TWO, point, 4, TrialState.FAIL) for point in random_points(TWO, 6)]
    no_rows = [trial_at(TWO, point, 0, TrialState.RUNNING) for point in random_points(TWO, 6)]
    assert uses_model(sampler_of(TWO, 4), trials[:4])
    assert not uses_model(sampler_of(TWO, 4), trials[:3])
    assert not uses_model(sampler_of(TWO, 4), [*trials[:3], *lost, *no_rows])


def test_tpe_proposes_beyond_many_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayvldd.hyperparameter_search.curves_sampler.MOST_TRIALS", 5)
    trials = [trial_at(TWO, point) for point in random_points(TWO, 6)]
    assert uses_model(sampler_of(TWO), trials[:5]) and not uses_model(sampler_of(TWO), trials)
    tpe, sampler = sampler_of(TWO), sampler_of(TWO)
    assert proposal(tpe, trials) == proposal(sampler, trials), "with the same seed for the same trial"


def test_tpe_proposes_for_several_objectives_and_for_minimisation() -> None:
    cases: list[tuple[Direction, ...]] = [("maximize", "minimize"), ("minimize",)]
    for directions in cases:
        sampler = sampler_of(TWO)
        study = study_of(sampler, directions)
        for _ in range(5):
            trial = study.ask()
            suggest(trial, Space(TWO, {}))
            study.tell(trial, [1.0] * len(directions))
        assert sampler.predicted(suggest(study.ask(), Space(TWO, {}))) is None


@pytest.mark.parametrize("known", [0, 4, 5])
def test_tpe_chooses_the_settings_of_a_branch_with_few_trials(known: int) -> None:
    sampler = sampler_of(BRANCHES)
    points = random_points(BRANCHES, 60)
    identity = [point for point in points if point["similarity"] == "identity"][:6]
    low_rank = [point for point in points if point["similarity"] == "low_rank"][:known]
    study = study_of(sampler)
    study.add_trials([trial_at(BRANCHES, point) for point in [*identity, *low_rank]])
    study.enqueue_trial({"similarity": "low_rank"})
    trial = study.ask()
    by_model = set(trial.relative_params)
    shared = {"rate", "steps", "similarity"}
    assert by_model == (shared | {"rank", "alpha"} if known == 5 else shared)
    point = suggest(trial, Space(BRANCHES, {}))
    assert point["similarity"] == "low_rank" and point["rank"] in BRANCHES["rank"]
    assert sampler.predicted(point) is not None


def test_no_warning_is_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proposal(sampler_of(BRANCHES), [trial_at(BRANCHES, point) for point in random_points(BRANCHES, 8)])
