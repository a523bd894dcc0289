"""A table of the studies of a workspace, and lines about their running trials."""

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from rayvldd.console import time_as_text
from rayvldd.hyperparameter_search.study_status import RunningTrial, StudyStatus
from rayvldd.reports.tables import plain_table


def studies_table(statuses: Sequence[StudyStatus], workspace: str) -> Table:
    """One row per study: state, trials, best validation recall and remaining time of its search."""
    table = plain_table(f"Studies in {workspace}")
    table.add_column("study", overflow="fold")
    for column in ("state", "trials"):
        table.add_column(column, no_wrap=True)
    for column in ("best val", "left"):
        table.add_column(column, justify="right", no_wrap=True)
    for status in statuses:
        best = "–" if status.best_recall is None else f"{status.best_recall:.2f}"
        left = "–" if status.seconds_left is None else time_as_text(status.seconds_left)
        trials = "–" if status.state == "unreadable" else f"{status.ended} of {status.total}"
        row = [status.name, status.state, trials, best, left]
        table.add_row(*map(Text, row), style="red" if status.state == "unreadable" else None)
    return table


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
    if trial.recall is None:
        return f"{trial.trial_id}  no evaluation so far"
    ago = "" if trial.seconds_ago is None else f", {time_as_text(trial.seconds_ago)} ago"
    return f"{trial.trial_id}  step {trial.outer_step} of {trial.last_step}: val mean recall {trial.recall:.2f}{ago}"
