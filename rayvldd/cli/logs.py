"""``rayvldd logs``: output of a job of a cluster."""

import click

from rayvldd.cli.cluster_jobs import dashboard_option, values_of_job
from rayvldd.cli.invocation import Invocation, RunCommand


@click.command(
    "logs",
    cls=RunCommand,
    takes_settings=False,
    only_reads=True,
    kept="the job, which continues",
    examples=["rayvldd logs", "rayvldd logs quickstart-3f9a1c --follow", "rayvldd logs mlflow"],
)
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--follow", is_flag=True, help="Continue until the job ends.")
@dashboard_option
@click.pass_obj
def command(invocation: Invocation, job_id: str | None, follow: bool, address: str) -> None:
    """Print the output of the job ID of a cluster; without ID, that of the latest sweep.

    With --json the text is written to standard error and, without --follow, is also part of the object.
    """
    from rayvldd.runtime.jobs import ClusterJobs

    cluster = ClusterJobs(address)
    job = cluster.find(job_id)
    if follow:
        job = cluster.follow(job, lambda text: click.echo(text, nl=False))
        invocation.say(f"job {job.job_id}: {job.state.lower()}")
        return invocation.finish(values_of_job(job))
    log = cluster.log(job)
    click.echo(log, nl=not log.endswith("\n"))
    invocation.finish({**values_of_job(job), "log": log})
