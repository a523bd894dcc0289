"""State of a study, read from its folder while it may be running, on any machine that shares the folder."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rayvldd.config.study import Study
from rayvldd.errors import StoreError
from rayvldd.hyperparameter_search.ledger import read_trials, search_seconds_of
from rayvldd.hyperparameter_search.lines import seconds_left
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.trial import EVALUATIONS, Trial, best_of

State = Literal["running", "stopped", "finished", "unreadable"]
"""``stopped``: interrupted or paused; the same command continues it."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has not ended, with its last evaluation."""

    trial_id: str
    outer_step: int
    """-1 before the first evaluation."""
    last_step: int
    """Outer step at which the trial ends, if it is not stopped."""
    recall: float | None
    """Validation recall of the last evaluation, in percent."""
    seconds_ago: float | None
    """Age of the last evaluation."""
    predicted_recall: float | None = None
    """Recall at the last outer step that the sampler's model predicted when it proposed the trial, in percent."""
    predicted_sd: float | None = None
    """Standard deviation of the prediction."""


@dataclass(frozen=True)
class StudyStatus:
    """State of one study."""

    name: str
    root: Path
    state: State
    ended: int = 0
    """Trials that have ended."""
    total: int = 0
    """Trials of the whole search."""
    states: dict[str, int] = field(default_factory=dict)
    """Number of trials by state."""
    best_trial: str | None = None
    best_recall: float | None = None
    """Validation recall of the best trial so far, in percent."""
    running: list[RunningTrial] = field(default_factory=list)
    seconds_left: float | None = None
    """Estimated remaining seconds of the search; None if none is running or nothing is known yet."""
    waiting_points: int = 0
    """Points that a user proposed and no trial has so far."""
    fault: str = ""
    """Why the study cannot be read."""


def status_of(folder: StudyFolder) -> StudyStatus:
    """Read the state of a study; a study or trial that cannot be read is named in ``fault``."""
    name = folder.root.name
    try:
        study = folder.saved_study()
    except StoreError as error:
        return StudyStatus(name, folder.root, "unreadable", fault=str(error).partition("\n")[0])
    trials, faults = read_trials(folder.trials)
    state: State = "running" if folder.is_running() else "stopped"
    if folder.result_file.is_file():
        state = "finished"
    running = [_running(trial, study) for trial in trials if trial.state == "running"]
    best = best_of(trials)
    ended = [trial for trial in trials if trial.state != "running"]
    searches = state == "running" and not folder.choice.is_file()
    return StudyStatus(
        name,
        folder.root,
        state,
        len(ended),
        study.max_trials,
        dict(Counter(trial.state for trial in trials)),
        best.trial_id if best else None,
        best.best.recall if best and best.best else None,
        running,
        _seconds_left(study, trials, running, len(ended)) if searches else None,
        len(folder.requests.waiting_points()),
        "; ".join(faults),
    )


def _running(trial: Trial, study: Study) -> RunningTrial:
    file = trial.folder / EVALUATIONS
    return RunningTrial(
        trial.trial_id,
        trial.outer_step,
        study.at(trial.point).distillation.outer_steps,
        trial.evaluations[-1].recall if trial.evaluations else None,
        max(0.0, time.time() - file.stat().st_mtime) if trial.evaluations and file.is_file() else None,
        trial.prediction.recall if trial.prediction else None,
        trial.prediction.sd if trial.prediction else None,
    )


def _seconds_left(study: Study, trials: list[Trial], running: list[RunningTrial], ended: int) -> float | None:
    done = ended + sum(max(one.outer_step, 0) / one.last_step for one in running)
    spent = search_seconds_of(trials)
    return seconds_left(spent, done, study.max_trials, study.search.time_budget_s) if done > 0 else None
