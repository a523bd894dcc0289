"""``rayvldd pause``: pause a running study."""

from pathlib import Path

import click

from rayvldd.cli import completion
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output


class _PausedStudy(Output):
    study: str
    folder: Path


@click.command(
    "pause",
    cls=RunCommand,
    short_help="Interrupt a study; its command continues it.",
    takes_settings=False,
    examples=["rayvldd pause quickstart", "rayvldd pause quickstart --dry-run"],
)
@click.argument("study_name", metavar="STUDY", shell_complete=completion.study_names)
@click.pass_obj
def command(invocation: Invocation, study_name: str) -> None:
    """Interrupt a running STUDY, on any machine that shares the workspace, as Ctrl-C does.

    Finished trials are kept, and every other trial up to its last evaluation; the study's command continues it. A study
    that trains experts or finalists is interrupted when these are done.
    """
    from rayvldd.errors import RayvlddError
    from rayvldd.hyperparameter_search.study_folder import named_study
    from rayvldd.workspace import Workspace

    folder = named_study(Workspace(invocation.workspace_folder), study_name)
    name = folder.root.name
    if not folder.is_running():
        state = "is finished" if folder.result_file.is_file() else "is not running"
        raise RayvlddError(f"study {name} {state}: nothing to pause", next_command="rayvldd status")
    if invocation.dry_run:
        invocation.say(f"study {name} would be interrupted")
    else:
        folder.requests.add_pause()
        invocation.say(f"study {name} will be interrupted; the same sweep command continues it")
        invocation.say_next("rayvldd status")
    invocation.finish(_PausedStudy(study=name, folder=folder.root))
