"""``rayvldd status``: the studies of a workspace, and the jobs of a cluster."""

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from rayvldd.cli.cluster_jobs import JobOutput, address_words, dashboard_option, output_of_job
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.records.study_status import StudyStatus

if TYPE_CHECKING:
    from rayvldd.runtime.jobs import Job


class _Status(Output):
    address: str
    jobs: list[JobOutput]
    studies: list[StudyStatus]


@click.command(
    "status",
    cls=RunCommand,
    short_help="List the studies of a workspace, and a cluster's jobs.",
    takes_settings=False,
    only_reads=True,
    examples=["rayvldd status", "rayvldd status --address http://127.0.0.1:8266 --json"],
)
@dashboard_option
@click.pass_context
def command(context: click.Context, address: str) -> None:
    """List the studies of the workspace, and the jobs that were submitted to a cluster, the latest first.

    Of a study: its state, trials, best validation recall, the remaining time of its search, and the last evaluation of
    each running trial. The list of jobs exists as long as the cluster; without `--address` it is shown if a cluster
    answers. The results of a sweep remain in its workspace, and the same command resumes it on any cluster with access
    to that folder.
    """
    invocation: Invocation = context.obj
    statuses = _show_studies(invocation)
    jobs: list[Job] = []
    is_default = context.get_parameter_source("address") is ParameterSource.DEFAULT
    if not is_default or _answers(address):
        jobs = _show_jobs(invocation, address)
    elif not statuses:
        invocation.say(f"No study in {invocation.workspace_folder}, and no cluster at {address}.")
        invocation.say_next("rayvldd sweep quickstart, or --workspace FOLDER")
    _end_abandoned_runs(invocation)
    invocation.finish(_Status(address=address, jobs=[output_of_job(job) for job in jobs], studies=statuses))


def _show_studies(invocation: Invocation) -> list[StudyStatus]:
    from rayvldd.hyperparameter_search.study_folder import StudyFolder
    from rayvldd.hyperparameter_search.study_status import status_of
    from rayvldd.reports.study_tables import lines_about, studies_table
    from rayvldd.workspace import Workspace

    workspace = Workspace(invocation.workspace_folder)
    statuses = [status_of(StudyFolder(file.parent)) for file in sorted(workspace.studies.glob("*/study.json"))]
    if statuses:
        invocation.show(studies_table(statuses, str(workspace.root)))
    for line in lines_about(statuses):
        invocation.say(line)
    return statuses


def _end_abandoned_runs(invocation: Invocation) -> None:
    """End the runs of killed processes in the workspace's MLflow; it is opened only if there are such."""
    from rayvldd.tracking.abandoned_runs import end_abandoned_runs
    from rayvldd.workspace import Workspace

    workspace = Workspace(invocation.workspace_folder)
    end_abandoned_runs(workspace, workspace.tracking_uri)


def _show_jobs(invocation: Invocation, address: str) -> "list[Job]":
    from rayvldd.reports.job_tables import jobs_table
    from rayvldd.runtime.jobs import ClusterJobs

    jobs = ClusterJobs(address).jobs()
    if jobs:
        invocation.show(jobs_table(jobs, address))
    else:
        invocation.say(f"No job was submitted to the cluster at {address} since its start.")
    sweeps = [job for job in jobs if job.study]
    if sweeps:
        invocation.say_next(f"rayvldd logs {sweeps[0].job_id} --follow{address_words(address)}")
    return jobs


def _answers(address: str) -> bool:
    """Whether something listens at the default address; a cluster is not required."""
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 8265), timeout=0.5):
            return True
    except OSError:
        return False
