"""A table of the jobs of a cluster."""

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from rayvldd.console import time_as_text
from rayvldd.reports.tables import plain_table
from rayvldd.runtime.jobs import Job


def jobs_table(jobs: Sequence[Job], address: str) -> Table:
    """One row per job; jobs other than sweeps are shown with their commands."""
    table = plain_table(f"Jobs at {address}")
    for column in ("job", "state"):
        table.add_column(column, no_wrap=True)
    for column in ("study or command", "workspace"):
        table.add_column(column, overflow="fold")
    table.add_column("started", no_wrap=True)
    table.add_column("ran", justify="right", no_wrap=True)
    for job in jobs:
        started = datetime.fromtimestamp(job.started).strftime("%Y-%m-%d %H:%M:%S")
        row = [job.job_id, job.state.lower(), job.study or job.entrypoint, job.workspace or "–"]
        row += [started, time_as_text(job.seconds)]
        table.add_row(*map(Text, row), style="red" if job.state == "FAILED" else None)
    return table
