"""``rayvldd compare``: the studies of a workspace beside each other, as a table and as a page."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.errors import StoreError, did_you_mean

if TYPE_CHECKING:
    from rayvldd.reports.page.study_report import StudyReport
    from rayvldd.stores.workspace import Workspace


@click.command(
    "compare",
    cls=RunCommand,
    takes_settings=False,
    kept="the studies; the page is written again",
    examples=[
        "rayvldd compare",
        "rayvldd compare quickstart longer --workspace rayvldd_workspace --json",
        "rayvldd compare --coresets coresets.json --out comparison",
    ],
)
@click.argument("study_names", metavar="[STUDY_NAME]...", nargs=-1)
@click.option(
    "--coresets",
    "coreset_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `rayvldd coreset STUDY --json` printed: its sets join those of that study. May be repeated.",
)
@click.option(
    "--out",
    "out_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for page, plots and tables. Default: comparison in the workspace.",
)
@click.pass_obj
def command(
    invocation: Invocation, study_names: tuple[str, ...], coreset_files: tuple[Path, ...], out_folder: Path | None
) -> None:
    """Show the studies of the workspace in one table and write a page about them, or about those that are named.

    The page, compare.html, is one file that opens offline: recall against number of pairs, the search with all its
    trials, and the sets to look at. Beside it are the plots as PNG, and all tables as CSV and LaTeX. Studies that are
    not finished, or damaged, are shown as far as they can be read.

    Recalls of different datasets, protocols or numbers of pairs are not comparable; shares of the full-data bound come
    nearer to it.
    """
    from rayvldd.stores.workspace import Workspace

    workspace = Workspace(invocation.workspace_folder)
    folders = _chosen(workspace, study_names)
    folder = out_folder or workspace.root / "comparison"
    if invocation.dry_run:
        invocation.say("\n".join(["Would compare:", *map(str, folders), f"and write {folder / 'compare.html'}"]))
        return invocation.finish({"studies": folders, "page": folder / "compare.html"})

    from rayvldd.reports.page.baselines import read_coreset_scores
    from rayvldd.reports.page.sections import compare
    from rayvldd.reports.page.study_report import read_study
    from rayvldd.reports.page.writing import write_comparison

    coresets = read_coreset_scores(coreset_files)
    reports = [read_study(path) for path in folders]
    results = _show(invocation, reports)
    try:
        page = write_comparison(compare(reports, coresets), folder, invocation.line)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error}", next_command="rayvldd compare --out FOLDER") from None
    invocation.say(f"page  {page}")
    states = {report.name: {"state": report.state, "faults": report.faults} for report in reports}
    invocation.finish({"studies": results, "states": states, "page": page})


def _show(invocation: Invocation, reports: list["StudyReport"]) -> list[dict[str, object]]:
    """Print the finished studies as a table and the others in a line each; return the results."""
    from rayvldd.reports.tables import comparison_table
    from rayvldd.search.study_folder import read_json

    finished = {report.name: report for report in reports if report.result is not None}
    results = [read_json(report.root / "result.json") for report in finished.values()]
    if results:
        invocation.show(comparison_table(results))
    for report in reports:
        if report.result is not None:
            invocation.say(f"{report.name}  {report.root / 'best'}")
        else:
            invocation.say(f"{report.name}  {report.state}, {len(report.trials)} trials so far")
        for fault in report.faults:
            invocation.say(f"  not readable: {fault}")
    return results


def _chosen(workspace: "Workspace", names: tuple[str, ...]) -> list[Path]:
    """The folders of the named studies, or of all.

    Raises:
        StoreError: naming every study that is not there.
    """
    folders = {path.name: path for path in sorted(workspace.studies.glob("*")) if path.is_dir()}
    if not folders:
        raise StoreError(
            f"{workspace.studies}: no study",
            next_command="rayvldd sweep search_spaces/quickstart.yaml, or --workspace FOLDER",
        )
    wrong = [f"no study {name!r}{did_you_mean(name, folders)}" for name in names if name not in folders]
    if wrong:
        told = f"{workspace.studies}: {'; '.join(wrong)}; there are: {', '.join(folders)}"
        raise StoreError(told, next_command="rayvldd compare")
    return [folders[name] for name in dict.fromkeys(names or folders)]
