"""State of a study, as ``rayvldd status`` shows it."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from rayvldd.records.form import Values

State = Literal["running", "stopped", "finished", "unreadable"]
"""``stopped``: interrupted or paused; the same command continues it."""


class RunningTrial(Values):
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
    predicted_recall: float | None
    """Recall at the last outer step that the sampler's model predicted when it proposed the trial, in percent."""
    predicted_sd: float | None
    """Standard deviation of the prediction."""


class StudyStatus(Values):
    """State of one study; the values of an unreadable one are those of a study without trials."""

    name: str
    root: Path
    state: State
    ended: int
    """Trials that have ended."""
    total: int
    """Trials of the whole search."""
    states: dict[str, int] = Field(default_factory=dict)
    """Number of trials by state."""
    best_trial: str | None
    best_recall: float | None
    """Validation recall of the best trial so far, in percent."""
    running: list[RunningTrial] = Field(default_factory=list)
    seconds_left: float | None
    """Estimated remaining seconds of the study; None if no search is running or nothing is known yet."""
    waiting_points: int
    """Points that a user proposed and no trial has so far."""
    fault: str
    """Why the study cannot be read; empty if it can."""


def unreadable(name: str, root: Path, fault: str) -> StudyStatus:
    """The status of a study that cannot be read."""
    return StudyStatus(
        name=name,
        root=root,
        state="unreadable",
        ended=0,
        total=0,
        best_trial=None,
        best_recall=None,
        seconds_left=None,
        waiting_points=0,
        fault=fault,
    )
