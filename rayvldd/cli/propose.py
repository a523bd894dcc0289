"""``rayvldd propose``: a point of one's own for a study."""

import click

from rayvldd.cli import completion
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.config.domains import SettingValue


class _ProposedPoint(Output):
    study: str
    point: dict[str, SettingValue]
    running: bool
    """Whether the study is running."""


@click.command(
    "propose",
    cls=RunCommand,
    short_help="Run a trial of a study at a point of your own.",
    takes_settings=False,
    examples=[
        "rayvldd propose quickstart distillation.lr_image=300 distillation.lr_text=100",
        "rayvldd propose quickstart distillation.lr_image=300 --dry-run",
    ],
)
@click.argument("study_name", metavar="STUDY", shell_complete=completion.study_names)
@click.argument("settings", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.pass_obj
def command(invocation: Invocation, study_name: str, settings: tuple[str, ...]) -> None:
    """Run a trial of STUDY at a point with these settings; the sampler chooses the missing ones.

    STUDY is the name of a study of the workspace, or its folder. A running study takes the point for its next trial, a
    stopped one when its command is repeated, a finished one when that has `--reopen`. The trial is one of
    `search.num_trials`, and its result is known to the sampler like any other.
    """
    from rayvldd.hyperparameter_search.proposals import propose
    from rayvldd.hyperparameter_search.study_folder import named_study
    from rayvldd.workspace import Workspace

    folder = named_study(Workspace(invocation.workspace_folder), study_name)
    point, message = propose(folder, settings, dry_run=invocation.dry_run)
    invocation.say(message)
    invocation.finish(_ProposedPoint(study=folder.root.name, point=point, running=folder.is_running()))
