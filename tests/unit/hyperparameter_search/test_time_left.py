"""The time that is left of a study: replayed searches, and the share of steps that stopping rules leave."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.searches import evaluated, with_search

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.stopping import MedianRule, StoppingRule, SuccessiveHalving
from rayvldd.hyperparameter_search.survival import ComparingRule, Survival, rungs_of
from rayvldd.hyperparameter_search.time_left import (
    NOTHING_TIMED,
    SideBySide,
    later_stages,
    makespan,
    seconds_left,
    seen_side_by_side,
)
from rayvldd.records.trial import Trial, TrialState, trial_id_of

RECORDED: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("recorded_progress.json").read_text(encoding="utf-8")
)
"""Searches on two cores, two trials at a time: their evaluations, and the seconds of the later stages.

An evaluation is its outer step, recall, seconds of the search, of matching and of evaluating. Where the load of the
machine changed several times over, only the first estimate can be near.
"""

MOST_COUNTED_UP = 5
"""Reports in a row with more time left than the one before."""


def study_with(base: Study, settings: dict[str, dict[str, Any]]) -> Study:
    values = base.model_dump(mode="json")
    return Study.model_validate(values | {name: values[name] | section for name, section in settings.items()})


def trials_of(record: dict[str, Any]) -> list[Trial]:
    trials = []
    for row in record["trials"]:
        evaluations = [
            evaluated(step, recall, seconds, seconds_matching=matching, seconds_evaluating=evaluating)
            for step, recall, seconds, matching, evaluating in row["evaluations"]
        ]
        number = row["number"]
        trials.append(Trial(trial_id_of(number), number, 1, {}, Path(), row["state"], evaluations=evaluations))
    return trials


def replayed(trials: list[Trial]) -> Iterator[tuple[float, list[Trial]]]:
    """The trials as they were at each evaluation; a trial ends right after its last one."""
    for when in sorted(one.search_seconds for trial in trials for one in trial.evaluations):
        seen = []
        for trial in trials:
            known = [one for one in trial.evaluations if one.search_seconds <= when]
            has_ended = trial.evaluations[-1].search_seconds < when
            if known:
                seen.append(replace(trial, evaluations=known, state=trial.state if has_ended else "running"))
        yield when, seen


@pytest.mark.parametrize("name", RECORDED)
def test_the_time_left_is_within_a_factor_of_two_from_the_first_outer_steps_on(tiny_study: Study, name: str) -> None:
    record = RECORDED[name]
    study, trials = study_with(tiny_study, record["settings"]), trials_of(record)
    end, later = max(when for when, _ in replayed(trials)), sum(record["seconds"].values())
    side, shown = SideBySide(2, 2, record["train_pairs"]), list[float]()
    for when, seen in replayed(trials):
        left, real = seconds_left(study, seen, when, side, len(trials)), end - when + later
        has_steps = any(trial.outer_step > 0 for trial in seen)
        assert (left is not None) == has_steps
        if left is not None:
            shown.append(left)
            is_near = real <= 20 or 0.5 <= left / real <= 2
            assert is_near or not (record["steady"] or len(shown) == 1), f"{left:.0f} s at {when:.0f} s, not {real:.0f}"
    counted_up = [after > before for before, after in pairwise(shown)]
    assert not any(all(counted_up[place : place + 1 + MOST_COUNTED_UP]) for place in range(len(counted_up)))
    assert len(shown) > 20


@pytest.fixture
def study(tiny_study: Study) -> Study:
    settings: dict[str, dict[str, Any]] = {
        "distillation": {"outer_steps": 40, "evaluate_every": 10},
        "evaluation": {"num_students": 2, "num_test_students": 5, "epochs": 3, "lr_coreset": (0.1, 0.3)},
    }
    return with_search(
        study_with(tiny_study, settings), num_finalists=2, finalist_seeds=3, max_concurrent=2, scheduler="none"
    )


def trial_with(steps: tuple[int, ...], number: int = 0, step: float = 1.0, evaluation: float = 4.0) -> Trial:
    """A running trial whose outer steps and evaluations take the given seconds; the first evaluation is at 10 s."""
    evaluations = [
        evaluated(
            outer_step,
            5.0,
            10.0 + outer_step * step + place * evaluation,
            seconds_matching=outer_step * step,
            seconds_evaluating=(place + 1) * evaluation,
        )
        for place, outer_step in enumerate(steps)
    ]
    return Trial(trial_id_of(number), number, 1, {}, Path(), evaluations=evaluations)


def test_what_is_left_is_trials_finalists_and_test(study: Study) -> None:
    trial, side = trial_with((0, 10, 20)), SideBySide(trials=2, students=4, train_pairs=60)
    # a whole distillation: 40 steps of 1 s and 4 evaluations of 4 s; a student takes 2 s, a process 6 s to start
    later = later_stages(study, [trial], side)
    assert later.finalist == pytest.approx(56 + 5 * 2)
    of_all = 60 * study.evaluation.full_data.total_epochs(5) / (3 * study.distillation.num_pairs)
    assert later.test == pytest.approx(6 + 2 * (4 * 5 + 2 * 2 + of_all) / 4)
    # of 4 trials one has 28 s left, three begin at two places
    search = makespan([28, 56, 56, 56], 2)
    assert search == 2 * 56
    spent = trial.evaluations[-1].search_seconds
    assert seconds_left(study, [trial], spent, side) == pytest.approx(search + 6 + 3 * 66 + later.test)
    assert seconds_left(study, [trial], spent, side, total=1) == pytest.approx(28 + 6 + 3 * 66 + later.test)


def test_a_search_has_no_more_left_than_its_budget(study: Study) -> None:
    trial, side = trial_with((0, 10, 20)), SideBySide(2, 2)
    limited = study.model_copy(update={"search": study.search.model_copy(update={"time_budget_s": 45.0})})
    spent = trial.evaluations[-1].search_seconds
    later = later_stages(limited, [trial], side)
    left = seconds_left(limited, [trial], spent, side)
    assert left == pytest.approx(45 - spent + 6 + 3 * later.finalist + later.test)


def test_nothing_is_estimated_before_the_first_outer_steps(study: Study) -> None:
    only_initial = trial_with((0,))
    assert seconds_left(study, [only_initial], 10.0, SideBySide(2, 2)) is None
    assert later_stages(study, [only_initial], SideBySide(2, 2)) == NOTHING_TIMED


def test_the_first_steps_of_a_trial_count_only_while_there_are_no_others(study: Study) -> None:
    """A process compiles in them: here they take 100 s more."""
    slow, side = trial_with((0, 10, 20, 30)), SideBySide(1, 1)
    slow.evaluations[1:] = [replace(one, search_seconds=one.search_seconds + 100) for one in slow.evaluations[1:]]
    first = replace(slow, evaluations=slow.evaluations[:2])
    assert later_stages(study, [first], side).finalist == pytest.approx(40 * 11 + 16 + 10)
    assert later_stages(study, [slow], side).finalist == pytest.approx(40 + 16 + 10)


def test_short_evaluations_of_the_first_rung_are_not_taken_for_whole_ones(study: Study) -> None:
    """One student of one epoch each, in place of two of three: a sixth."""
    proxied = study.at({"evaluation.proxy_epochs": 1})
    trial = trial_with((0, 10), evaluation=2.0)  # grace_evaluations is 1, so only the last three are whole ones
    assert later_stages(proxied, [trial], SideBySide(1, 1)).finalist == pytest.approx(40 + 2 + 3 * 12 + 5 * 6)


def test_a_trial_that_is_late_is_taken_to_be_as_slow_as_it_is(study: Study) -> None:
    side, alone = SideBySide(1, 1), with_search(study, num_finalists=0, num_trials=1, scheduler="none")
    trial = trial_with((0, 10, 20))
    spent = trial.evaluations[-1].search_seconds
    test = later_stages(alone, [trial], side).test
    assert seconds_left(alone, [trial], spent, side) == pytest.approx(28 + test)
    assert seconds_left(alone, [trial], spent + 10, side) == pytest.approx(18 + test)
    assert seconds_left(alone, [trial], spent + 28, side) == pytest.approx(28 + test), "14 s should have been enough"


def test_trials_that_overlap_ran_side_by_side() -> None:
    second = replace(trial_with((0, 10), 1), state="stopped")
    assert seen_side_by_side([]) == seen_side_by_side([trial_with((0, 10))]) == 1
    assert seen_side_by_side([trial_with((0, 10, 20)), second]) == 2
    third = trial_with((0,), 2)
    third.evaluations[0] = replace(third.evaluations[0], search_seconds=30.0)
    assert seen_side_by_side([trial_with((0, 10, 20)), second, third]) == 2


def share_that_continues(rule: StoppingRule, count: int, generator: np.random.Generator) -> float:
    """Share of trials with exchangeable recalls that one comparison at step 4 leaves."""
    history, continued = list[Trial](), 0
    for number, recall in enumerate(generator.permutation(1000)[:count]):
        trial = Trial(trial_id_of(number), number, 1, {}, Path(), evaluations=[evaluated(4, float(recall))])
        history.append(trial)
        continued += rule.reason_to_stop(trial, history) is None
    return continued / count


@pytest.mark.parametrize("factor", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("count", [3, 12])
def test_the_expected_share_is_that_of_the_rules_on_random_recalls(factor: float, count: int) -> None:
    generator = np.random.default_rng(1)

    def check(make: "type[SuccessiveHalving] | type[MedianRule]", *arguments: Any) -> None:
        rule = make(*arguments)
        assert isinstance(rule, ComparingRule)
        survival = Survival(rule.rungs(), ())
        # of 4 steps more after the comparison at step 4
        expected = np.mean([survival.steps(4, 8, place) / 4 for place in range(1, count + 1)])
        found = [share_that_continues(make(*arguments), count, generator) for _ in range(200)]
        assert expected == pytest.approx(np.mean(found), abs=4 * np.std(found) / np.sqrt(200) + 1e-9)

    check(SuccessiveHalving, [(4.0,)], factor, 0)
    check(MedianRule, 4.0)


def test_a_trial_meets_each_rung_above_its_steps() -> None:
    survival = Survival(SuccessiveHalving([(12.0, 4.0)], 3.0, 0).rungs(), ())
    first, second = survival.steps(0, 20, 1), survival.steps(0, 20, 2)
    assert first == 20, "the first one is compared with nobody"
    assert second == pytest.approx(4 + 0.5 * 8 + 0.5 * 1.0 * 8), "it is the first one at the second rung, if it comes"
    assert survival.steps(5, 20, 2) > survival.steps(4, 20, 2)
    assert survival.steps(0, 4, 9) == 4, "a rung at the last step stops nothing"


def test_trials_of_the_study_replace_the_expectation() -> None:
    rungs = SuccessiveHalving([(4.0,)], 3.0, 0).rungs()

    def ended(number: int, last: int) -> Trial:
        state: TrialState = "finished" if last == 8 else "stopped"
        return Trial(trial_id_of(number), number, 1, {}, Path(), state, evaluations=[evaluated(last, 5.0)])

    expected = Survival(rungs, ()).steps(0, 8, 9)
    stopped = Survival(rungs, [ended(number, 4) for number in range(8)]).steps(0, 8, 9)
    went_on = Survival(rungs, [ended(number, 8) for number in range(8)]).steps(0, 8, 9)
    assert 4 < stopped < 4.4 < expected < 7 < went_on < 8


def test_trials_that_are_never_compared_run_to_their_end(study: Study) -> None:
    """Without a rule, of trials that end before their first evaluation but the last one."""
    distillation = study.distillation.model_copy(update={"outer_steps": 8, "evaluate_every": 100})
    search = study.search.model_copy(update={"scheduler": "none"})
    short = study.model_copy(update={"distillation": distillation, "search": search})
    assert Survival(rungs_of(short), [trial_with((0, 8))]).steps(0, 8, 3) == 8
    assert seconds_left(short, [trial_with((0, 8))], 20.0, SideBySide(2, 2)) is not None


def test_a_rule_that_does_not_say_its_rungs_stops_as_many_as_the_study_shows(study: Study) -> None:
    rungs = rungs_of(study)
    assert rungs.brackets == ((10, 20, 30, 40),)
    assert Survival(rungs, ()).steps(0, 40, 3) == 40
    stopped = Trial("trial_000", 0, 1, {}, Path(), "stopped", evaluations=[evaluated(20, 5.0)])
    assert 10 < Survival(rungs, [stopped] * 8).steps(0, 40, 9) < 30
