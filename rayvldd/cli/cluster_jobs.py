"""Common parts of the commands for a cluster's jobs: the option for its address, and the output of a job."""

from typing import TYPE_CHECKING

import click

from rayvldd.cli.output import Output

if TYPE_CHECKING:
    from rayvldd.runtime.jobs import Job

DASHBOARD = "http://127.0.0.1:8265"
"""Address of a cluster's dashboard on one of its nodes, or forwarded by ssh."""

dashboard_option = click.option(
    "--address",
    envvar="RAY_API_SERVER_ADDRESS",
    show_envvar=True,
    metavar="URL",
    default=DASHBOARD,
    show_default=True,
    help="The cluster's dashboard, http://HOST:PORT, usually a port forwarded by ssh; or `auto` on a cluster node.",
)


class JobOutput(Output):
    """A job of a cluster."""

    id: str
    state: str
    study: str | None
    workspace: str | None
    entrypoint: str
    started: float
    ended: float | None
    message: str
    exit_code: int | None
    log: str | None = None


def output_of_job(job: "Job", log: str | None = None) -> JobOutput:
    """A job, and with ``log`` its text, for ``--json``."""
    given = {} if log is None else {"log": log}
    return JobOutput(
        id=job.job_id,
        state=job.state,
        study=job.study or None,
        workspace=job.workspace or None,
        entrypoint=job.entrypoint,
        started=job.started,
        ended=job.ended,
        message=job.message,
        exit_code=job.exit_code,
        **given,
    )


def address_words(address: str) -> str:
    """The option for an address in a command, with a leading space; empty for the default address."""
    return "" if address == DASHBOARD else f" --address {address}"
