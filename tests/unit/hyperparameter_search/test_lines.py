"""Lines of trials, and the estimate of the time that is left of a study."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from helpers.searches import evaluated, with_search
from rich.console import Console

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.hyperparameter_search.lines import line_of_trial, seconds_after_search, seconds_of_test
from rayvldd.records.trial import Trial


def trial_with(matching: float, evaluating: float, steps: tuple[int, ...]) -> Trial:
    """A trial whose seconds grow evenly up to those given at its last evaluation."""
    last = len(steps)
    evaluations = [
        evaluated(step, 5.0, seconds_matching=matching * n / last, seconds_evaluating=evaluating * n / last)
        for n, step in enumerate(steps, start=1)
    ]
    return Trial("trial_001", 1, 1, {}, Path(), "stopped", evaluations=evaluations)


@pytest.fixture
def study(tiny_study: Study) -> Study:
    settings = {"distillation.outer_steps": 40, "evaluation.num_students": 2, "evaluation.num_test_students": 5}
    return with_search(tiny_study.at(settings), num_finalists=2, finalist_seeds=3, max_concurrent=2)


def test_finalists_and_test_are_estimated_from_trials_at_their_whole_length(study: Study) -> None:
    trial = trial_with(matching=12.0, evaluating=8.0, steps=(0, 5, 10, 20))
    # a student takes 8 s / 4 evaluations / 2 students; 3 sets and random pairs have 5 each, and the rates 2 each
    test = (20 + 2 * len(study.evaluation.lr_coreset)) * 1.0 / 2
    assert seconds_of_test(study, [trial]) == pytest.approx(test)
    assert seconds_after_search(study, [trial]) == pytest.approx(6 * 40.0 / 2 + test)
    without = study.model_copy(update={"search": study.search.model_copy(update={"num_finalists": 0})})
    assert seconds_after_search(without, [trial]) == pytest.approx((10 + 2 * len(study.evaluation.lr_coreset)) / 2)


def test_nothing_is_estimated_before_the_first_outer_step(study: Study) -> None:
    unmeasured = replace(trial_with(1.0, 1.0, (0,)), evaluations=[evaluated(4, 1.0)])
    assert seconds_after_search(study, [trial_with(1.0, 1.0, (0,)), unmeasured]) == 0


def test_the_best_trial_so_far_is_marked() -> None:
    trial = trial_with(1.0, 1.0, (0, 5))
    assert "at step 0, best so far" in line_of_trial(trial, is_best=True)
    assert "best so far" not in line_of_trial(trial)


def test_activities_have_the_phase_of_the_command() -> None:
    shown = StringIO()
    display = ProgressDisplay(Console(file=shown, width=80))
    with display, pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayvldd.console._PLAIN_EVERY_S", 0.0)
        display.begin_phase(3, 5)
        display.progress("trials", 1, 8, "best 7.00")
        display.end_phases()
        display.progress("drawing", 1, 2)
    assert shown.getvalue().splitlines() == ["[3/5] trials: 1 of 8, best 7.00", "drawing: 1 of 2"]
