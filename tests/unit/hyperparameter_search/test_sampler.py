"""Every sampler stays inside every domain, and does not repeat known points of a study."""

import math
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.searches import evaluated

from rayvldd.config.domains import ChoiceDomain, DrawnDomain, FloatDomain, IntDomain, SettingValue, as_number
from rayvldd.config.loading import load_study
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.optuna_samplers import OptunaSampler, suggest
from rayvldd.hyperparameter_search.optuna_trials import distribution_of
from rayvldd.hyperparameter_search.strategy import (
    NothingToGainError,
    SampledSearch,
    SearchStrategy,
    SpaceExhaustedError,
    make_strategy,
)
from rayvldd.randomness import sampler_seed
from rayvldd.records.trial import Trial

DOMAINS: dict[str, DrawnDomain] = {
    "uniform": FloatDomain(type="float", low=-1, high=2),
    "log": FloatDomain(type="float", low=1e-4, high=1e2, log=True),
    "grid": FloatDomain(type="float", low=0.5, high=2.0, step=0.25),
    "int": IntDomain(type="int", low=1, high=3),
    "int_step": IntDomain(type="int", low=2, high=10, step=4),
    "int_log": IntDomain(type="int", low=1, high=64, log=True),
    "choice": ChoiceDomain(type="choice", values=("real", "noise")),
    "mixed_choice": ChoiceDomain(type="choice", values=(True, 1.5, 3, "x")),
    "lists_and_null": ChoiceDomain(type="choice", values=((), ("color",), ("color", "crop"), None)),
    "one": ChoiceDomain(type="choice", values=(7,)),
}
LR = "distillation.lr_image"
SAMPLERS = ["tpe", "curves", "random", "gp", "cmaes", "qmc"]
SPACE: dict[str, dict[str, Any]] = {
    "distillation.lr_image": {"type": "float", "low": 1.0, "high": 1000.0, "log": True},
    "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 1, "high": 4},
    "distillation.initialisation.texts": {"type": "choice", "values": ["real", "noise"]},
}


def is_inside(domain: Any, value: Any) -> bool:
    if isinstance(domain, ChoiceDomain):
        return any(value == known and type(value) is type(known) for known in domain.values)
    on_grid = domain.step is None or math.isclose((value - domain.low) / domain.step % 1 % 1, 0, abs_tol=1e-9)
    whole = isinstance(domain, FloatDomain) or isinstance(value, int)
    return domain.low <= value <= domain.high and on_grid and whole


@pytest.mark.parametrize("name", DOMAINS)
def test_draws_are_inside_and_reach_both_ends(name: str) -> None:
    domain = DOMAINS[name]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [suggest(study.ask(), Space({"x": domain}, {}))["x"] for _ in range(400)]
    assert all(is_inside(domain, value) for value in drawn)
    if not isinstance(domain, FloatDomain):
        assert {domain.corners()[0], domain.corners()[-1]} <= set(drawn)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_distribution_is_the_one_that_is_drawn_from(name: str) -> None:
    domain = DOMAINS[name]
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    suggest(trial, Space({"x": domain}, {}))
    assert trial.distributions["x"] == distribution_of(domain)


@pytest.mark.parametrize("name", DOMAINS)
def test_domains_survive_yaml(name: str) -> None:
    import yaml

    domain = DOMAINS[name]
    assert type(domain).model_validate(yaml.safe_load(yaml.safe_dump(domain.model_dump(mode="json")))) == domain


@pytest.fixture
def searched(tiny_study: Study) -> Study:
    values = tiny_study.model_dump(mode="json")
    values["search"] = {"space": SPACE, "num_trials": 6, "initial_points": [{"distillation.lr_image": 1}]}
    return Study.model_validate(values)


def with_search(study: Study, **changes: Any) -> Study:
    values = study.model_dump(mode="json")
    values["search"] |= changes
    return Study.model_validate(values)


def with_sampler(study: Study, sampler: str) -> Study:
    """The study with another sampler, and without choices where that would draw them at random."""
    space = {key: domain for key, domain in SPACE.items() if sampler not in ("cmaes", "qmc") or "low" in domain}
    return with_search(study, sampler=sampler, space=space)


def run(study: Study, folder: Path, count: int) -> list[dict[str, Any]]:
    """Propose points and enter a value for each into the ledger."""
    ledger = Ledger(folder)
    strategy, points = make_strategy(study, ledger.trials.values()), []
    for _ in range(count):
        proposal = strategy.propose(ledger.trials.values())
        points.append({**proposal.point, TRIAL_ID: proposal.trial_id})
        trial = ledger.start(proposal.number, 1, proposal.point)
        value = float(as_number(proposal.point["distillation.trajectory_matching.syn_steps"]))
        ledger.add_evaluation(trial.trial_id, evaluated(0, value))
        ledger.end(trial.trial_id, "finished")
    return points


TRIAL_ID = "trial_id"


def point_of(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != TRIAL_ID}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_inside_the_space(sampler: str, searched: Study, tmp_path: Path) -> None:
    study = with_sampler(searched, sampler)
    points = run(study, tmp_path, 6)
    for point in points:
        assert all(is_inside(domain, point[key]) for key, domain in study.search.space.items())
    assert [point[TRIAL_ID] for point in points] == [f"trial_00{number}" for number in range(6)]
    assert points[0]["distillation.lr_image"] == 1.0 and isinstance(points[0]["distillation.lr_image"], float)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_study_repeats_no_point(sampler: str, searched: Study, tmp_path: Path) -> None:
    study = with_sampler(searched, sampler)
    first, second = run(study, tmp_path, 3), run(study, tmp_path, 3)
    assert [point[TRIAL_ID] for point in second] == ["trial_003", "trial_004", "trial_005"]
    assert len({tuple(point_of(point).values()) for point in first + second}) == 6


def test_the_same_seed_draws_the_same_points(searched: Study, tmp_path: Path) -> None:
    assert run(searched, tmp_path / "a", 5) == run(searched, tmp_path / "b", 5)
    other = searched.model_copy(update={"seed": 8})
    assert run(searched, tmp_path / "c", 3)[1:] != run(other, tmp_path / "d", 3)[1:]


def test_trials_that_were_cut_off_come_first_under_their_names(searched: Study, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    full: list[dict[str, Any]] = [
        {
            "distillation.lr_image": 10.0 * (n + 1),
            "distillation.trajectory_matching.syn_steps": 2,
            "distillation.initialisation.texts": "noise",
        }
        for n in range(3)
    ]
    for number, point in enumerate(full):
        ledger.start(number, 1, point)
    ledger.end("trial_000", "failed", "diverged")
    known = Ledger(tmp_path).trials.values()
    strategy = make_strategy(searched, known)
    drawn = [strategy.propose(known) for _ in range(3)]
    assert [(one.trial_id, one.point) for one in drawn[:2]] == [("trial_001", full[1]), ("trial_002", full[2])]
    assert drawn[2].trial_id == "trial_003"


@pytest.mark.parametrize("rows", [[], [(0, 3.0)], [(0, 3.0), (2, 9.0)]])
def test_a_failed_trial_is_passed_to_the_sampler_without_a_value(
    rows: list[tuple[int, float]], searched: Study, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    strategy = make_strategy(searched)
    proposal = strategy.propose(ledger.trials.values())
    ledger.start(proposal.number, 1, proposal.point)
    for step, value in rows:
        ledger.add_evaluation(proposal.trial_id, evaluated(step, value))
        strategy.propose(ledger.trials.values())
    ledger.end(proposal.trial_id, "failed", "diverged")
    strategy.propose(ledger.trials.values())
    for known_trials in (
        _optuna_trials(strategy),
        _optuna_trials(make_strategy(searched, Ledger(tmp_path).trials.values())),
    ):
        ((state, curve),) = [(one.state, one.intermediate_values) for one in known_trials]
        assert (state, curve) == (optuna.trial.TrialState.PRUNED, dict(rows)), "below every trial with a value"


def test_known_trials_are_passed_with_their_values(searched: Study, tmp_path: Path) -> None:
    run(searched, tmp_path, 2)
    known_trials = _optuna_trials(make_strategy(searched, Ledger(tmp_path).trials.values()))
    assert [trial.value for trial in known_trials] == [t.best.recall for t in Ledger(tmp_path).ended if t.best]


def test_a_stopped_trial_is_passed_with_its_best_recall_and_its_curve(searched: Study, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    strategy = make_strategy(searched)
    proposal = strategy.propose(ledger.trials.values())
    ledger.start(proposal.number, 1, proposal.point)
    for step, value in ((0, 3.0), (2, 9.0), (4, 8.0)):
        ledger.add_evaluation(proposal.trial_id, evaluated(step, value))
    ledger.end(proposal.trial_id, "stopped")
    strategy.propose(ledger.trials.values())
    for known_trials in (
        _optuna_trials(strategy),
        _optuna_trials(make_strategy(searched, Ledger(tmp_path).trials.values())),
    ):
        ((recall, curve),) = [(one.value, one.intermediate_values) for one in known_trials]
        assert (recall, curve) == (9.0, {0: 3.0, 2: 9.0, 4: 9.0})


def _optuna_trials(strategy: Any) -> list[optuna.trial.FrozenTrial]:
    assert isinstance(strategy, SampledSearch) and isinstance(strategy.sampler, OptunaSampler)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return [trial for trial in strategy.sampler.optuna_trials() if trial.state in ended]


CONDITIONAL = {
    **SPACE,
    "distillation.similarity": {"type": "choice", "values": ["identity", "low_rank"]},
    "distillation.student_loss": {
        "type": "fixed",
        "value": "weighted_bce",
        "when": {"distillation.similarity": "low_rank"},
    },
    "distillation.sim_rank": {"type": "int", "low": 5, "high": 40, "when": {"distillation.similarity": "low_rank"}},
    "distillation.lr_sim": {
        "type": "float",
        "low": 1,
        "high": 100,
        "log": True,
        "when": {"distillation.similarity": "low_rank"},
    },
}


@pytest.mark.parametrize("sampler", ["tpe", "curves", "random"])
def test_a_setting_is_drawn_where_its_condition_holds_and_nowhere_else(
    sampler: str, searched: Study, tmp_path: Path
) -> None:
    study = with_search(searched, space=CONDITIONAL, num_trials=24, sampler=sampler, initial_points=[])
    points = [point_of(config) for config in run(study, tmp_path, 24)]
    conditional = {"distillation.student_loss", "distillation.sim_rank", "distillation.lr_sim"}
    similar = [point for point in points if point["distillation.similarity"] == "low_rank"]
    assert 0 < len(similar) < len(points)
    assert all((point in similar) == (conditional <= point.keys()) for point in points)
    assert all(point in similar or not conditional & point.keys() for point in points)
    assert all(study.at(point).distillation.student_loss == "weighted_bce" for point in similar)
    known_trials = _optuna_trials(make_strategy(study, Ledger(tmp_path).trials.values()))
    assert [set(trial.params) for trial in known_trials] == [
        point.keys() - {"distillation.student_loss"} for point in points
    ]


def test_the_sampler_models_once_it_has_its_start_trials(searched: Study, tmp_path: Path) -> None:
    def points(start: int | None, total: int) -> list[dict[str, SettingValue]]:
        study = with_search(searched, num_start_trials=start, num_trials=total, initial_points=[])
        return [point_of(config) for config in run(study, tmp_path / f"{start}_{total}", 8)]

    at_random = points(8, 24)
    for start, total, begins in ((2, 24, 2), (None, 24, 5), (None, 2, 3)):
        found = points(start, total)
        assert found[:begins] == at_random[:begins] and found[begins] != at_random[begins]


def test_conditional_settings_of_a_first_point_are_tried_as_given(searched: Study, tmp_path: Path) -> None:
    first = {"distillation.similarity": "low_rank", "distillation.sim_rank": 7, "distillation.lr_sim": 10}
    study = with_search(searched, space=CONDITIONAL, initial_points=[first])
    (point,) = run(study, tmp_path, 1)
    assert first.items() <= point.items() and isinstance(point["distillation.lr_sim"], float)
    assert point["distillation.student_loss"] == "weighted_bce"


@pytest.mark.parametrize("sampler", ["tpe", "curves", "gp", "qmc", "random"])
def test_several_objectives_are_passed_to_the_sampler(sampler: str, searched: Study, tmp_path: Path) -> None:
    space = {key: domain for key, domain in SPACE.items() if "low" in domain}
    space["distillation.num_pairs"] = {"type": "int", "low": 2, "high": 40}
    objectives = ["val_mean_recall", "num_pairs", "seconds"]
    study = with_search(
        searched,
        space=space,
        sampler=sampler,
        num_trials=12,
        objectives=objectives,
        scheduler="none",
        initial_points=[],
    )
    ledger = Ledger(tmp_path)
    strategy = make_strategy(study)
    for number in range(7):
        proposal = strategy.propose(ledger.trials.values())
        trial = ledger.start(proposal.number, 1, proposal.point)
        for step, recall in enumerate((3.0, 9.0, 8.0)):
            row = evaluated(step, recall, seconds_matching=2.0 * step, seconds_evaluating=1.0)
            ledger.add_evaluation(trial.trial_id, row)
        ledger.end(trial.trial_id, "failed" if number == 3 else "finished")
    strategy.propose(ledger.trials.values())
    known_trials = _optuna_trials(strategy)
    pairs = [trial.params["distillation.num_pairs"] for trial in known_trials]
    worst = [3.0, float(max(pairs[:4])), 5.0] if sampler == "gp" else None
    assert [trial.values for trial in known_trials] == [
        worst if number == 3 else [9.0, float(count), 3.0] for number, count in enumerate(pairs)
    ]
    again = _optuna_trials(make_strategy(study, Ledger(tmp_path).trials.values()))
    assert [(trial.values, trial.params) for trial in again] == [(trial.values, trial.params) for trial in known_trials]


def test_samplers_are_made_without_warnings(searched: Study) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sampler in SAMPLERS:
            make_strategy(with_sampler(searched, sampler))


def test_seeds_are_functions_of_study_and_number(searched: Study) -> None:
    studies = [searched.model_copy(update={"seed": seed}) for seed in range(3)]
    own = [with_search(study, trial_seeds="own") for study in studies]
    assert own[1].trial_seed(3) == own[1].trial_seed(3)
    seeds = {study.trial_seed(number) for study in own for number in range(50)}
    seeds |= {sampler_seed(study.seed, number) for study in studies for number in range(50)}
    assert len(seeds) == 300 and all(0 <= seed < 2**31 for seed in seeds)


def test_trials_of_a_study_have_one_seed_in_common(searched: Study) -> None:
    seeds = {searched.trial_seed(number) for number in range(50)}
    assert seeds == {with_search(searched, trial_seeds="own").trial_seed(0)}
    assert seeds != {searched.model_copy(update={"seed": searched.seed + 1}).trial_seed(0)}


def test_the_best_evaluation_is_the_earliest_of_equals(tmp_path: Path) -> None:
    trial = Trial(
        "trial_000", 0, 1, {}, tmp_path, evaluations=[evaluated(0, 1.0), evaluated(2, 5.0), evaluated(4, 5.0)]
    )
    assert trial.best is not None and trial.best.outer_step == 2


def test_trials_at_lists_and_null_are_known_to_the_sampler(tiny_study: Study, tmp_path: Path) -> None:
    key, values = "distillation.augmentation", ((), ("color",), None, 3)
    choice = ChoiceDomain(type="choice", values=values)
    space = {key: choice, LR: FloatDomain(type="float", low=1, high=2)}
    search = tiny_study.search.model_copy(update={"space": space, "initial_points": ()})
    study, ledger = tiny_study.model_copy(update={"search": search}), Ledger(tmp_path)
    for number, value in enumerate(values):
        ledger.start(number, 1, {key: value, LR: 1.5})
        ledger.add_evaluation(f"trial_00{number}", evaluated(0, 1.0))
        ledger.end(f"trial_00{number}", "finished")
    known = Ledger(tmp_path).trials.values()
    strategy = make_strategy(study, known)
    assert strategy.propose(known).point[key] in choice
    assert isinstance(strategy, SampledSearch) and isinstance(strategy.sampler, OptunaSampler)
    params = [trial.params[key] for trial in strategy.sampler.optuna_trials()[:4]]
    assert params == ["[]", '["color"]', None, 3], "plain values, which every storage of Optuna keeps"


STEPS = "distillation.trajectory_matching.syn_steps"
SIX_POINTS = {
    STEPS: {"type": "int", "low": 1, "high": 3},
    "distillation.trajectory_matching.batch_size": {"type": "int", "low": 2, "high": 3},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_point_is_proposed_twice_where_trials_share_their_seed(
    searched: Study, tmp_path: Path, sampler: str
) -> None:
    first = {STEPS: 2, "distillation.trajectory_matching.batch_size": 2}
    study = with_search(
        searched, sampler=sampler, space=SIX_POINTS, initial_points=[first, first, {STEPS: 2}], num_trials=9
    )
    points = [*run(study, tmp_path, 4), *run(study, tmp_path, 2)]  # in two sessions
    assert len({(point[STEPS], point["distillation.trajectory_matching.batch_size"]) for point in points}) == 6
    assert [point[STEPS] for point in points[:2]] == [2, 2], "initial points first, each once"
    with pytest.raises(SpaceExhaustedError):
        run(study, tmp_path, 1)


def test_a_search_ends_where_nothing_is_to_be_gained(searched: Study, tmp_path: Path) -> None:
    space = {"distillation.lr_image": {"type": "float", "low": 1, "high": 1000, "log": True}}
    settings = {"sampler": "curves", "space": space, "num_start_trials": 3, "num_trials": 60}
    study, ledger = with_search(searched, **settings, stop_below_gain=0.25), Ledger(tmp_path)

    def run_one(strategy: SearchStrategy) -> None:
        proposal = strategy.propose(ledger.trials.values())
        trial = ledger.start(proposal.number, 1, proposal.point)
        height = 20 - 4 * math.log10(as_number(proposal.point["distillation.lr_image"]) / 30) ** 2
        for step in (0, 2, 4):
            noise = math.sin(1000 * trial.number + step)
            ledger.add_evaluation(trial.trial_id, evaluated(step, height * (1 - math.exp(-step)) + noise))
        ledger.end(trial.trial_id, "finished")

    strategy = make_strategy(study)
    with pytest.raises(NothingToGainError) as end:
        for _ in range(60):
            run_one(strategy)
    assert 0 <= end.value.gain < 0.25 and 3 < len(ledger.trials) < 60
    again = make_strategy(study, ledger.trials.values())
    with pytest.raises(NothingToGainError):
        again.propose(ledger.trials.values())
    run_one(make_strategy(with_search(study, stop_below_gain=None), ledger.trials.values()))


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        (
            "stop_below_gain: 0.25",
            r"search.stop_below_gain: has no effect, since sampler tpe predicts no gain; allowed: null, or .*: curves",
        ),
        (
            "sampler: curves\n  scheduler: none\n  objectives: [val_mean_recall, seconds]\n  stop_below_gain: 0.25",
            r"search.stop_below_gain: has no effect with 2 objectives; allowed: null, or val_mean_recall",
        ),
    ],
    ids=["a sampler without a model", "two objectives"],
)
def test_an_end_that_would_never_come_is_refused(tmp_path: Path, search: str, problem: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: none\ndata: {source: toy_scenes}\nmodel: {image_encoder: {name: convnet_d3}}\n"
        f"search:\n  {search}\n  space: {{distillation.lr_image: {{type: float, low: 1, high: 10}}}}\n"
    )
    with pytest.raises(ConfigError, match=problem):
        load_study(file)


@pytest.mark.parametrize("at", ["stop_below_gain", "initial"])
def test_a_point_that_is_asked_for_runs_whatever_it_gains(searched: Study, tmp_path: Path, at: str) -> None:
    space = {"distillation.lr_image": {"type": "float", "low": 1, "high": 1000, "log": True}}
    wanted = {"distillation.lr_image": 7.0}
    initial = [{"distillation.lr_image": rate} for rate in (1.0, 10.0, 100.0, 1000.0)]
    study = with_search(
        searched,
        sampler="curves",
        space=space,
        num_start_trials=1,
        stop_below_gain=1000.0,
        initial_points=[*initial, wanted] if at == "initial" else initial,
    )
    ledger = Ledger(tmp_path)
    for number, point in enumerate(initial):
        ledger.start(number, 1, point)
        ledger.add_evaluation(f"trial_{number:03d}", evaluated(0, 1.0))
        ledger.add_evaluation(f"trial_{number:03d}", evaluated(2, 5.0 + number))
        ledger.end(f"trial_{number:03d}", "finished")
    known = ledger.trials.values()
    strategy = make_strategy(study, known, take_point=lambda trial_id: None if at == "initial" else wanted)
    assert strategy.propose(known).point == wanted


def test_a_known_result_is_reported_to_the_sampler(searched: Study, tmp_path: Path) -> None:
    study = with_search(searched, sampler="random", space={STEPS: {"type": "int", "low": 1, "high": 9}}, num_trials=9)
    ledger = Ledger(tmp_path)
    strategy = make_strategy(study, ledger.trials.values())
    assert isinstance(strategy, SampledSearch) and isinstance(strategy.sampler, OptunaSampler)
    for _ in range(9):
        proposal = strategy.propose(ledger.trials.values())
        trial = ledger.start(proposal.number, 1, proposal.point)
        ledger.add_evaluation(trial.trial_id, evaluated(0, float(as_number(proposal.point[STEPS]))))
        ledger.end(trial.trial_id, "finished")
    known = [trial for trial in strategy.sampler.optuna_trials() if trial.state is optuna.trial.TrialState.COMPLETE]
    assert len(known) > 9, "nine different points out of nine need repeated draws"
    assert all(trial.value == trial.params[STEPS] for trial in known)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_knows_failures_and_running_trials(searched: Study, tmp_path: Path, sampler: str) -> None:
    study, ledger = with_sampler(searched, sampler), Ledger(tmp_path)
    strategy, states = make_strategy(study), ["finished", "failed", "died", "running"]
    for recall, state in enumerate(states, start=5):
        proposal = strategy.propose(ledger.trials.values())
        trial = ledger.start(proposal.number, 1, proposal.point)
        for step, value in enumerate((recall, recall - 3.0)):
            ledger.add_evaluation(trial.trial_id, evaluated(step, value))
        if state != "running":
            failed: Any = "failed" if state == "died" else state
            ledger.end(trial.trial_id, failed, process_died=state == "died")
    strategy.propose(ledger.trials.values())
    assert isinstance(strategy, SampledSearch) and isinstance(strategy.sampler, OptunaSampler)
    trials = strategy.sampler.optuna_trials()[:4]
    only_completed = sampler in ("gp", "cmaes")
    names = ["COMPLETE", "COMPLETE" if only_completed else "PRUNED", "FAIL", "RUNNING"]
    assert [trial.state.name for trial in trials] == names
    assert trials[0].values == [5.0] and (trials[1].values == [3.0] or not only_completed)
    second = -3.0 if sampler == "curves" else 0.0  # all others get the best recall so far
    recalls = [{0: recall, 1: recall + second} for recall in (5.0, 6.0, 7.0, 8.0)]
    assert [trial.intermediate_values for trial in trials] == recalls
    again = _optuna_trials(make_strategy(study, Ledger(tmp_path).trials.values()))
    assert [trial.state for trial in again] == [trial.state for trial in trials[:2]]
    assert [trial.values for trial in again] == [[5.0], [3.0] if only_completed else None]
