"""Lines of trials, and of activities on a terminal that is none."""

from io import StringIO
from pathlib import Path

import pytest
from helpers.searches import evaluated
from rich.console import Console

from rayvldd.console import ProgressDisplay
from rayvldd.hyperparameter_search.lines import line_of_trial
from rayvldd.records.trial import Trial


def test_the_best_trial_so_far_is_marked() -> None:
    trial = Trial("trial_001", 1, 1, {}, Path(), "stopped", evaluations=[evaluated(0, 5.0), evaluated(5, 5.0)])
    assert "at step 0, best so far" in line_of_trial(trial, is_best=True)
    assert "best so far" not in line_of_trial(trial)


def test_the_time_left_is_that_of_the_phase_if_others_follow() -> None:
    display, words = ProgressDisplay(Console(quiet=True)), "about 3 min left"
    assert display.of_phase(words) == words
    display.begin_phase(1, 2)
    assert display.of_phase(words) == "about 3 min left of this phase" and display.of_phase("") == ""
    display.begin_phase(2, 2)
    assert display.of_phase(words) == words
    display.begin_phase(1, 2)
    display.end_phases()
    assert display.of_phase(words) == words


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
