"""``rayvldd status``: the jobs of a cluster."""

import click

from rayvldd.cli.cluster_jobs import address_words, dashboard_option, say_next, values_of_job
from rayvldd.cli.invocation import Invocation, RunCommand


@click.command(
    "status",
    cls=RunCommand,
    takes_settings=False,
    only_reads=True,
    examples=["rayvldd status", "rayvldd status --address http://127.0.0.1:8266 --json"],
)
@dashboard_option
@click.pass_obj
def command(invocation: Invocation, address: str) -> None:
    """List the jobs that were submitted to a cluster, the latest first.

    The list exists as long as the cluster. The results of a sweep remain in its workspace, and the same command resumes
    it on any cluster with access to that folder.
    """
    from rayvldd.reports.job_tables import jobs_table
    from rayvldd.runtime.jobs import ClusterJobs

    jobs = ClusterJobs(address).jobs()
    if jobs:
        invocation.show(jobs_table(jobs, address))
    else:
        invocation.say(f"No job was submitted to the cluster at {address} since its start.")
    sweeps = [job for job in jobs if job.study]
    if sweeps:
        say_next(invocation, f"rayvldd logs {sweeps[0].job_id} --follow{address_words(address)}")
    invocation.finish({"address": address, "jobs": [values_of_job(job) for job in jobs]})
