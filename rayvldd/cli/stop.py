"""``rayvldd stop``: end a job of a cluster."""

import click

from rayvldd.cli.cluster_jobs import address_words, dashboard_option, say_next, values_of_job
from rayvldd.cli.invocation import Invocation, RunCommand


@click.command(
    "stop",
    cls=RunCommand,
    takes_settings=False,
    kept="the job, which continues or is about to end",
    examples=["rayvldd stop quickstart-3f9a1c", "rayvldd stop quickstart-3f9a1c --dry-run"],
)
@click.argument("job_id", metavar="ID")
@dashboard_option
@click.pass_obj
def command(invocation: Invocation, job_id: str, address: str) -> None:
    """End the job ID of a cluster, as Ctrl-C ends a command.

    Finished experts and trials of a sweep are kept, and every other trial up to its last evaluation; submit the same
    sweep again to resume it.
    """
    from rayvldd.runtime.jobs import ENDED, ClusterJobs

    cluster = ClusterJobs(address)
    job = cluster.find(job_id)
    if job.state in ENDED:
        invocation.say(f"job {job.job_id} has ended already: {job.state.lower()}")
    elif invocation.dry_run:
        invocation.say(f"job {job.job_id} would be ended; it is {job.state.lower()}")
    else:
        job = cluster.stop(job)
        invocation.say(f"job {job.job_id}: {job.state.lower()}" + ("" if job.state in ENDED else ", still ending"))
    say_next(invocation, f"rayvldd logs {job.job_id}{address_words(address)}")
    invocation.finish(values_of_job(job))
