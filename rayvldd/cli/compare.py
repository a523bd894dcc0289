"""``rayvldd compare``: the finished studies of a workspace beside each other."""

from typing import TYPE_CHECKING

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.errors import StoreError, did_you_mean

if TYPE_CHECKING:
    from rayvldd.search.study_folder import StudyFolder
    from rayvldd.stores.workspace import Workspace


@click.command(
    "compare",
    cls=RunCommand,
    takes_settings=False,
    examples=[
        "rayvldd compare",
        "rayvldd compare quickstart longer --workspace rayvldd_workspace --json",
    ],
)
@click.argument("study_names", metavar="[STUDY_NAME]...", nargs=-1)
@click.pass_obj
def command(invocation: Invocation, study_names: tuple[str, ...]) -> None:
    """Show the finished studies of the workspace in one table, or only those that are named.

    Recalls of different datasets, protocols or numbers of pairs are not comparable; shares of the full-data bound come
    nearer to it.
    """
    from rayvldd.reports.tables import comparison_table
    from rayvldd.stores.workspace import Workspace

    folders = _chosen(Workspace(invocation.workspace_folder), study_names)
    if invocation.dry_run:
        files = [str(folder.result_file) for folder in folders]
        invocation.say("\n".join(["Would compare:", *files]))
        return invocation.finish({"results": files})
    results = [result for folder in folders if (result := folder.result())]
    invocation.show(comparison_table(results))
    for result in results:
        invocation.say(f"{result['study']}  {result['distilled_set']}")
    invocation.finish({"studies": results})


def _chosen(workspace: "Workspace", names: tuple[str, ...]) -> list["StudyFolder"]:
    from rayvldd.search.study_folder import StudyFolder

    folders = {path.name: StudyFolder(path) for path in sorted(workspace.studies.glob("*")) if path.is_dir()}
    finished = {name: folder for name, folder in folders.items() if folder.result() is not None}
    if not finished:
        raise StoreError(
            f"{workspace.studies}: no finished study" + (f"; not finished: {', '.join(folders)}" if folders else ""),
            next_command="rayvldd sweep search_spaces/quickstart.yaml, or --workspace FOLDER",
        )
    wrong = [name for name in names if name not in finished]
    if wrong:
        known = ", ".join(finished)
        told = "; ".join(
            f"{name!r} is not finished" if name in folders else f"no study {name!r}{did_you_mean(name, folders)}"
            for name in wrong
        )
        raise StoreError(f"{workspace.studies}: {told}; finished: {known}", next_command="rayvldd compare")
    return [finished[name] for name in names or finished]
