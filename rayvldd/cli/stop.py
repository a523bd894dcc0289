"""``rayvldd stop``: end a job of a cluster, or one trial of a study."""

import click

from rayvldd.cli import completion
from rayvldd.cli.cluster_jobs import address_words, dashboard_option, output_of_job
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.cli.trials import trial_of, trial_option


class _StoppedTrial(Output):
    study: str
    trial_id: str


@click.command(
    "stop",
    cls=RunCommand,
    short_help="End one trial of a study, or a job of a cluster.",
    takes_settings=False,
    kept="the job, which continues or is about to end",
    examples=[
        "rayvldd stop quickstart-3f9a1c",
        "rayvldd stop quickstart-3f9a1c --dry-run",
        "rayvldd stop quickstart --trial 3",
    ],
)
@click.argument("job_id", metavar="ID|STUDY", shell_complete=completion.study_names)
@trial_option("Stop this trial of STUDY at its next evaluation; its best set counts.")
@dashboard_option
@click.pass_obj
def command(invocation: Invocation, job_id: str, trial: int | None, address: str) -> None:
    """End the job ID of a cluster, as Ctrl-C ends a command; or stop a trial of a STUDY.

    Finished experts and trials of a sweep are kept, and every other trial up to its last evaluation; submit the same
    sweep again to resume it. `rayvldd pause` interrupts a study that is no job.
    """
    if trial is not None:
        return _stop_trial(invocation, job_id, trial)
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
    invocation.say_next(f"rayvldd logs {job.job_id}{address_words(address)}")
    return invocation.finish(output_of_job(job))


def _stop_trial(invocation: Invocation, study_name: str, number: int) -> None:
    from rayvldd.errors import RayvlddError

    folder, trial = trial_of(invocation, study_name, number)
    name = folder.root.name
    if trial.state != "running":
        raise RayvlddError(f"study {name}: {trial.trial_id} has ended: {trial.state}", next_command="rayvldd status")
    if invocation.dry_run:
        invocation.say(f"study {name}: {trial.trial_id} would be stopped at its next evaluation")
    else:
        folder.requests.add_stop(trial.trial_id)
        invocation.say(f"study {name}: {trial.trial_id} will be stopped at its next evaluation")
        invocation.say_next("rayvldd status")
    invocation.finish(_StoppedTrial(study=name, trial_id=trial.trial_id))
