"""Rules that stop trials early, and their state in a resumed study."""

from typing import Any

import pytest
from helpers.searches import evaluated
from helpers.stopping import decisions, results_of, trial_of

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.strategy import Decision, make_strategy
from rayvldd.records.trial import Evaluation, Trial

RULES = ("median", "hyperband", "asha")


def with_search(study: Study, **search: Any) -> Study:
    values = study.model_dump(mode="json")
    values["search"] = {"num_trials": 4, "grace_evaluations": 2, "reduction_factor": 3.0, **search}
    return Study.model_validate(values)


def long(study: Study, scheduler: str, **search: Any) -> Study:
    return with_search(study.at({"distillation.outer_steps": 40}), scheduler=scheduler, **search)


def stops_at(study: Study, recalls: list[float], known: int = 0) -> list[int]:
    """The outer steps at which the only trial of a study is to stop; it reports every second step."""
    rows = [evaluated(2 * number, max(recalls[: number + 1])) for number in range(len(recalls))]
    trial = trial_of(0, rows[:known])
    strategy = make_strategy(study, [trial] if known else [])
    stops = []
    for each in rows[known:]:
        trial.evaluations.append(each)
        if strategy.decide(trial, [trial]) is Decision.STOP:
            stops.append(each.outer_step)
    return stops


def test_a_trial_that_gains_nothing_is_stopped_though_it_is_the_first(tiny_study: Study) -> None:
    study = long(tiny_study, "asha")
    assert stops_at(study, [5.0, 3.0, 2.0, 1.0]) == [4, 6], "again until it has stopped"
    assert stops_at(study, [5.0, 3.0, 5.1, 1.0]) == []
    assert stops_at(long(tiny_study, "asha", stop_without_gain=False), [5.0, 3.0, 2.0, 1.0]) == []
    assert stops_at(long(tiny_study, "none"), [5.0, 3.0, 2.0, 1.0]) == []
    short = with_search(tiny_study.at({"distillation.outer_steps": 4}))
    assert stops_at(short, [5.0, 3.0, 2.0]) == [], "it has ended by itself"


@pytest.mark.parametrize(
    ("scheduler", "recalls", "reason"),
    [
        ("asha", [2.0, 2.0, 1.0], "no gain over its initial set until step 4"),
        ("asha", [2.0, 2.5, 3.0], "halved at step 4: 3.00 is below 8.00"),
        ("median", [2.0, 2.5, 3.0], "below the median at step 4: 3.00 is below 8.00"),
        ("asha", [2.0, 8.0, 9.0], ""),
    ],
)
def test_a_rule_says_why_it_stops(tiny_study: Study, scheduler: str, recalls: list[float], reason: str) -> None:
    study = long(tiny_study, scheduler)
    trials = [trial_of(number, [evaluated(0, 2.0), evaluated(4, 8.0)]) for number in range(3)]
    trials.append(trial_of(3))
    strategy = make_strategy(study, trials[:3])
    for number, recall in enumerate(recalls):
        trials[3].evaluations.append(evaluated(2 * number, max(recall, *recalls[: number + 1])))
        decision = strategy.decide(trials[3], trials)
    assert strategy.reason_to_stop("trial_003") == reason
    assert (decision is Decision.STOP) == bool(reason)
    assert strategy.reason_to_stop("trial_000") == ""


def test_the_start_of_a_trial_is_known_when_it_continues(tiny_study: Study) -> None:
    assert stops_at(long(tiny_study, "asha"), [5.0, 5.0, 5.0], known=2) == [4]


def test_a_searched_length_gives_room_to_the_longest_trial(tiny_study: Study) -> None:
    space = {"distillation.outer_steps": {"type": "choice", "values": [10, 30]}}
    trial = trial_of(0, [evaluated(30, 1.0)])
    assert make_strategy(with_search(tiny_study, space=space)).decide(trial, [trial]) is Decision.CONTINUE


def test_nothing_is_stopped_by_none(tiny_study: Study) -> None:
    study = long(tiny_study, "none")
    assert decisions(study, results_of(study, 9, 40)) == []


def test_brackets_of_hyperband_repeat_with_the_seed_and_differ_in_patience(tiny_study: Study) -> None:
    study = long(tiny_study, "hyperband")
    rows = results_of(study, 30, 40)
    first = decisions(study, rows)
    assert first == decisions(study, rows)
    assert first != decisions(study.model_copy(update={"seed": 8}), rows)
    asha = decisions(long(tiny_study, "asha"), rows)
    assert {step for _, step in first} >= {4, 12} and len(first) < len(asha)


def records_until(rows: list[tuple[int, Evaluation]], stops: dict[int, int], last: int = 40) -> dict[int, Trial]:
    """The records of trials that end where they were stopped, up to an outer step."""
    trials: dict[int, Trial] = {}
    for number, result in rows:
        if result.outer_step <= min(last, stops.get(number, 41)):
            trials.setdefault(number, trial_of(number)).evaluations.append(result)
    return trials


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cut", [10, 37, 67, 80])
def test_a_rule_that_continues_decides_as_if_never_interrupted(rule: str, cut: int, tiny_study: Study) -> None:
    study = long(tiny_study, rule)
    rows = results_of(study, 9, 40)
    first = dict(decisions(study, rows[:cut]))
    later = [(number, result) for number, result in rows[cut:] if number not in first]
    second = decisions(study, later, records_until(rows[:cut], first).values())
    assert [*first.items(), *second] == decisions(study, rows)


@pytest.mark.parametrize("rule", RULES)
def test_a_trial_whose_process_died_before_it_stopped_is_stopped_again(rule: str, tiny_study: Study) -> None:
    study = long(tiny_study, rule)
    rows = results_of(study, 9, 40)
    stops = dict(decisions(study, rows))
    number, step = next(iter(stops.items()))
    trials = records_until(rows, stops, step)
    strategy = make_strategy(study, trials.values())
    assert strategy.decide(trials[number], trials.values()) is Decision.STOP
