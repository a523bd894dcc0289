"""``rayvldd compare``: comparison of the studies of a workspace, as a table and as a page."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import JsonValue

from rayvldd.cli import completion
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.cli.scoring import show_published
from rayvldd.records.json_values import JsonObject

if TYPE_CHECKING:
    from rayvldd.library.comparing import ComparedStudies
    from rayvldd.reports.page.sections import Comparison
    from rayvldd.reports.page.study_report import StudyReport


class _PlannedComparison(Output):
    studies: list[Path]
    page: Path


class _StateOutput(Output):
    state: str
    faults: list[str]


class _Comparison(Output):
    studies: list[dict[str, JsonValue]]
    """The results of finished studies, as in their files."""
    states: dict[str, _StateOutput]
    warnings: dict[str, str]
    """By study, that its set is its starting pairs, with advice; other studies are left out."""
    verdicts: list[str]
    page: Path


@click.command(
    "compare",
    cls=RunCommand,
    short_help="Compare the studies of a workspace on one page.",
    takes_settings=False,
    kept="the studies; the page is written again",
    examples=[
        "rayvldd compare",
        "rayvldd compare quickstart longer --workspace rayvldd_workspace --json",
        "rayvldd compare quickstart --watch 30",
        "rayvldd compare --coresets coresets.json --out comparison",
        "rayvldd compare quickstart --evaluations evaluated.json --evaluations transfer.json --reference",
    ],
)
@click.argument("study_names", metavar="[STUDY_NAME]...", nargs=-1, shell_complete=completion.study_names)
@click.option(
    "--coresets",
    "coreset_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Output of `rayvldd coreset STUDY --json`: its sets are added to those of the study. May be repeated.",
)
@click.option(
    "--evaluations",
    "evaluation_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What `rayvldd evaluate SET... --json` printed: its sets, real pairs, transfer matrix and breakdown. May be "
    "repeated.",
)
@click.option("--reference", is_flag=True, help="Also show published tables for Flickr30K and COCO, separately.")
@click.option(
    "--out",
    "out_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for page, plots and tables. Default: comparison in the workspace.",
)
@click.option(
    "--watch",
    "watch_s",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="Write the page again at this interval while a study is running; a browser that shows it reloads it.",
)
@click.pass_obj
def command(
    invocation: Invocation,
    study_names: tuple[str, ...],
    coreset_files: tuple[Path, ...],
    evaluation_files: tuple[Path, ...],
    reference: bool,
    out_folder: Path | None,
    watch_s: int | None,
) -> None:
    """Show all studies of the workspace, or the named ones, in a table, and write a page about them.

    The page, compare.html, is one file that opens offline. It shows recall against number of pairs, the search with all
    trials, and the sets. Plots as PNG and tables as CSV and LaTeX are written to the same folder. Unfinished or damaged
    studies are shown as far as they can be read.

    A FILE is the output of a command with `--json` on test: `rayvldd evaluate SET... --json > FILE`. Its sets are
    compared with studies and sets with the same data, encoders and protocol; files and sizes are combined. Results on
    other encoders than that of a set form a transfer matrix, and a `--breakdown` is plotted.

    Recalls of different datasets, protocols or numbers of pairs are not comparable; fractions of the full-data bound
    are more comparable.
    """
    with invocation.waiting("reading the studies"):
        from rayvldd.library.comparing import ComparedStudies, chosen_studies
        from rayvldd.library.comparing import compare as compare_studies
        from rayvldd.records.set_scores import kept_scores, read_scores
        from rayvldd.tracking.abandoned_runs import end_abandoned_runs
        from rayvldd.workspace import Workspace

    workspace = Workspace(invocation.workspace_folder)
    if invocation.dry_run:
        _, evaluations = read_scores(coreset_files, evaluation_files)
        there = bool(evaluations or kept_scores(workspace.scores)[1])
        folders = chosen_studies(workspace, study_names, may_be_none=there)
        page = (out_folder or workspace.root / "comparison") / "compare.html"
        files = [*folders, *coreset_files, *evaluation_files, *sorted(workspace.scores.glob("*.json"))]
        invocation.say("\n".join(["Would compare:", *map(str, files), f"and write {page}"]))
        return invocation.finish(_PlannedComparison(studies=folders, page=page))

    with invocation.waiting("opening the tracker"):
        end_abandoned_runs(workspace, workspace.tracking_uri)
    published = show_published(invocation) if reference else []

    def write(reload_s: int | None) -> ComparedStudies:
        with invocation.waiting("reading the studies and drawing the page"):
            return compare_studies(
                *study_names,
                workspace=workspace.root,
                out=out_folder,
                coreset_files=coreset_files,
                evaluation_files=evaluation_files,
                published=published,
                command=invocation.line,
                reload_s=reload_s,
            )

    compared = _watched(invocation, write, watch_s)
    reports, comparison, page = compared.reports, compared.comparison, compared.page
    warnings = _warnings(reports)
    results = _show(invocation, reports, warnings)
    _show_verdicts(invocation, comparison)
    for sentence in compared.unread:
        invocation.say(f"not shown: {sentence}")
    invocation.say(f"page  {page}")
    states = {report.name: _StateOutput(state=report.state, faults=report.faults) for report in reports}
    verdicts = compared.verdicts
    invocation.finish(_Comparison(studies=results, states=states, warnings=warnings, verdicts=verdicts, page=page))


def _watched(
    invocation: Invocation, write: "Callable[[int | None], ComparedStudies]", watch_s: int | None
) -> "ComparedStudies":
    """Write the page; with an interval again and again while one of its studies is running."""
    from rayvldd.hyperparameter_search.study_folder import StudyFolder

    while watch_s is not None:
        compared = write(watch_s)
        running = [report.name for report in compared.reports if StudyFolder(report.root).is_running()]
        if not running:
            break
        ended = sum(trial.state != "running" for report in compared.reports for trial in report.trials)
        invocation.say(f"{compared.page}: {', '.join(running)} running, {ended} trials have ended")
        time.sleep(watch_s)
    return write(None)  # the last page is not read again


def _show_verdicts(invocation: Invocation, comparison: "Comparison") -> None:
    """Print for each group whether its sets are better than real pairs, and which sets could not be opened."""
    for group in comparison.groups:
        invocation.say(f"{group.measured_on}:")
        for sentence in group.sentences:
            invocation.say(f"  {sentence}")
    for section in comparison.set_sections:
        if section.report.fault:
            invocation.say(f"not shown: {section.report.fault}")


def _warnings(reports: list["StudyReport"]) -> dict[str, str]:
    """Warnings of the studies whose sets are their starting pairs, by name."""
    from rayvldd.reports.gain import words_without_gain

    results = {report.name: report.result for report in reports if report.result is not None}
    found = {
        name: words_without_gain(result.best.outer_step, result.num_pairs, result.rates_to_try)
        for name, result in results.items()
    }
    return {name: words for name, words in found.items() if words}


def _show(invocation: Invocation, reports: list["StudyReport"], warnings: dict[str, str]) -> list[JsonObject]:
    """Print the finished studies as a table and a line for each study, with warnings; return the results."""
    from rayvldd.reports.tables import comparison_table

    results = list({report.name: report.result for report in reports if report.result is not None}.values())
    if results:
        invocation.show(comparison_table(results))
    for report in reports:
        if report.result is not None:
            invocation.say(f"{report.name}  {report.root / 'best'}")
            if report.name in warnings:
                invocation.say(f"  WARNING: {warnings[report.name]}.")
        else:
            invocation.say(f"{report.name}  {report.state}, {len(report.trials)} trials so far")
        for fault in report.faults:
            invocation.say(f"  not readable: {fault}")
    return [result.as_json() for result in results]
