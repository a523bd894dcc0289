"""A table of the studies of a workspace, and lines about their running trials."""

from collections.abc import Iterator, Sequence

from rayvldd.console import time_as_text
from rayvldd.records.study_status import RunningTrial, StudyStatus
from rayvldd.reports.table import PERCENT, Cell, Table, numbers, texts


def studies_table(statuses: Sequence[StudyStatus], workspace: str) -> Table:
    """One row per study: state, trials, best validation recall and remaining time of its search."""
    columns = [*texts("study", "state", "trials"), *numbers("best val", number=PERCENT), *numbers("left")]
    unreadable = frozenset(index for index, status in enumerate(statuses) if status.state == "unreadable")
    rows = [_row_of(status) for status in statuses]
    return Table(columns, rows, f"Studies in {workspace}", "studies", faulty=unreadable)


def _row_of(status: StudyStatus) -> list[Cell]:
    trials = None if status.state == "unreadable" else f"{status.ended} of {status.total}"
    left = None if status.seconds_left is None else time_as_text(status.seconds_left)
    return [status.name, status.state, trials, status.best_recall, left]


def lines_about(statuses: Sequence[StudyStatus]) -> Iterator[str]:
    """Lines about the trials of running studies, waiting points and damaged files."""
    for status in statuses:
        if status.state == "running":
            yield from (f"{status.name}: {_line_of(trial)}" for trial in status.running)
        if status.waiting_points:
            yield f"{status.name}: {status.waiting_points} proposed points wait for a trial"
        if status.fault:
            yield f"{status.name}: {status.fault}"


def _line_of(trial: RunningTrial) -> str:
    predicted = ""
    if trial.predicted_recall is not None and trial.predicted_sd is not None:
        predicted = f"; predicted {trial.predicted_recall:.1f} ± {trial.predicted_sd:.1f}"
    if trial.recall is None:
        return f"{trial.trial_id}  no evaluation so far{predicted}"
    ago = "" if trial.seconds_ago is None else f", {time_as_text(trial.seconds_ago)} ago"
    step = f"step {trial.outer_step} of {trial.last_step}"
    return f"{trial.trial_id}  {step}: val mean recall {trial.recall:.2f}{ago}{predicted}"
