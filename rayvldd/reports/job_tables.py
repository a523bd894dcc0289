"""A table of the jobs of a cluster."""

from collections.abc import Sequence
from datetime import datetime

from rayvldd.console import time_as_text
from rayvldd.reports.table import Cell, Column, Table, texts
from rayvldd.runtime.jobs import Job


def jobs_table(jobs: Sequence[Job], address: str) -> Table:
    """One row per job; jobs other than sweeps are shown with their commands."""
    columns = [*texts("job", "state", "study or command", "workspace", "started"), Column("ran", align="right")]
    failed = frozenset(place for place, job in enumerate(jobs) if job.state == "FAILED")
    return Table(columns, [_row(job) for job in jobs], f"Jobs at {address}", "jobs", faulty=failed)


def _row(job: Job) -> list[Cell]:
    started = datetime.fromtimestamp(job.started).strftime("%Y-%m-%d %H:%M:%S")
    study = job.study or job.entrypoint
    return [job.job_id, job.state.lower(), study, job.workspace or None, started, time_as_text(job.seconds)]
