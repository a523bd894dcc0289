"""``rayvldd logs``: output of a job of a cluster, or log of a trial."""

from typing import TYPE_CHECKING

import click

from rayvldd.cli import completion
from rayvldd.cli.cluster_jobs import dashboard_option, output_of_job
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.cli.trials import trial_of, trial_option
from rayvldd.errors import RayvlddError, without_next_command
from rayvldd.printable import printable

if TYPE_CHECKING:
    from rayvldd.runtime.jobs import ClusterJobs, Job


class _TrialLog(Output):
    study: str
    trial_id: str
    state: str
    log: str


@click.command(
    "logs",
    cls=RunCommand,
    short_help="Print the log of a trial, or of a job of a cluster.",
    takes_settings=False,
    only_reads=True,
    kept="the job, which continues",
    examples=[
        "rayvldd logs",
        "rayvldd logs quickstart-3f9a1c --follow",
        "rayvldd logs mlflow",
        "rayvldd logs quickstart --trial 3",
    ],
)
@click.argument("job_id", metavar="[ID|STUDY]", required=False, shell_complete=completion.study_names)
@trial_option("Print the log of this trial of STUDY.")
@click.option("--follow", is_flag=True, help="Continue until the job ends.")
@dashboard_option
@click.pass_context
def command(context: click.Context, job_id: str | None, trial: int | None, follow: bool, address: str) -> None:
    """Print the output of the job ID of a cluster; without ID, that of the latest sweep. Or the log of a trial.

    With --json the text is written to standard error and, without --follow, is also part of the object.
    """
    invocation: Invocation = context.obj
    if trial is not None:
        if job_id is None or follow:
            raise click.UsageError("--trial N prints the log of a trial: give its STUDY, without --follow.", context)
        return _show_trial(invocation, job_id, trial)
    cluster, job = _found(invocation, address, job_id)
    if follow:
        job = cluster.follow(job, lambda text: click.echo(text, nl=False))
        invocation.say(f"job {job.job_id}: {job.state.lower()}")
        return invocation.finish(output_of_job(job))
    log = cluster.log(job)
    click.echo(log, nl=not log.endswith("\n"))
    return invocation.finish(output_of_job(job, log))


def _found(invocation: Invocation, address: str, job_id: str | None) -> "tuple[ClusterJobs, Job]":
    """The cluster and the job.

    Raises:
        RayvlddError: if there is none; for a study of the workspace with the command for the log of a trial.
    """
    from rayvldd.runtime.jobs import ClusterJobs
    from rayvldd.workspace import Workspace

    try:
        cluster = ClusterJobs(address)
        return cluster, cluster.find(job_id)
    except RayvlddError as error:
        studies = Workspace(invocation.workspace_folder).studies
        trials = sorted((studies / job_id / "trials").glob("trial_*")) if job_id else []
        if not trials:
            raise
        number = int(trials[-1].name.removeprefix("trial_"))
        raise RayvlddError(
            f"{without_next_command(error)}; {job_id} is a study of the workspace, whose trials have logs",
            next_command=f"rayvldd logs {job_id} --trial {number}",
        ) from error


def _show_trial(invocation: Invocation, study_name: str, number: int) -> None:
    from rayvldd.errors import StoreError
    from rayvldd.hyperparameter_search.trial_log import LOG

    folder, trial = trial_of(invocation, study_name, number)
    try:
        text = (trial.folder / LOG).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = f"{trial.trial_id} is {trial.state} and has no log: no process has begun it\n"
    except OSError as error:
        raise StoreError(f"{trial.folder / LOG}: cannot be read: {error}", next_command="rayvldd status") from error
    click.echo(printable(text), nl=False)
    invocation.finish(_TrialLog(study=folder.root.name, trial_id=trial.trial_id, state=trial.state, log=text))
