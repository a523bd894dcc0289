"""Compare the studies of a workspace on one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.errors import StoreError, did_you_mean
from rayvldd.records.set_scores import kept_scores, read_scores
from rayvldd.workspace import Workspace

if TYPE_CHECKING:
    from rayvldd.reports.page.sections import Comparison
    from rayvldd.reports.page.study_report import StudyReport
    from rayvldd.reports.published import PublishedRow


@dataclass(frozen=True)
class ComparedStudies:
    """Result of a comparison."""

    comparison: "Comparison"
    reports: "list[StudyReport]"
    page: Path
    """One HTML file that opens offline."""
    unread: Sequence[str] = ()
    """Messages about saved scores that could not be read."""

    @property
    def verdicts(self) -> list[str]:
        """Sentences that state whether distilled sets are better than real pairs."""
        return [sentence for group in self.comparison.groups for sentence in group.sentences]

    def _repr_html_(self) -> str:
        """The verdicts and the page, for notebooks."""
        from html import escape

        lines = "".join(f"<li>{escape(verdict)}</li>" for verdict in self.verdicts)
        return f"<ul>{lines}</ul><p>{escape(str(self.page))}</p>"


def compare(
    *studies: str,
    workspace: str | Path = "rayvldd_workspace",
    out: str | Path | None = None,
    coreset_files: Sequence[Path] = (),
    evaluation_files: Sequence[Path] = (),
    published: "Sequence[PublishedRow]" = (),
    command: str = "rv.compare",
    reload_s: int | None = None,
) -> ComparedStudies:
    """Write a page about studies and the scores that are saved in the workspace.

    Args:
        studies: Names of studies; default: all studies of the workspace.
        workspace: Folder of the workspace.
        out: Folder of the page; default: ``comparison`` in the workspace.
        coreset_files: Further scores, printed by ``rayvldd coreset --json``.
        evaluation_files: Further scores, printed by ``rayvldd evaluate --json``.
        published: Rows of published tables to show.
        command: Command line shown as the origin of the page.
        reload_s: Seconds after which a browser reads the page again; default: never.

    Raises:
        ConfigError: if a file has another content, or scores on validation.
        StoreError: if a study does not exist, or the page cannot be written.
    """
    from rayvldd.reports.page.evaluated_sets import evaluated_sets
    from rayvldd.reports.page.sections import compare as compared
    from rayvldd.reports.page.study_report import read_study
    from rayvldd.reports.page.writing import write_comparison

    place = Workspace(workspace)
    coresets, evaluations = read_scores(coreset_files, evaluation_files)
    kept_coresets, kept_evaluations, unread = kept_scores(place.scores)
    coresets, evaluations = [*coresets, *kept_coresets], [*evaluations, *kept_evaluations]
    folders = chosen_studies(place, studies, may_be_none=bool(evaluations))
    folder = Path(out) if out else place.root / "comparison"
    reports = [read_study(path) for path in folders]
    sets = evaluated_sets(evaluations, reports, place.root)
    comparison = compared(reports, coresets, evaluations, sets, list(published))
    try:
        page = write_comparison(comparison, folder, command, reload_s)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error}", next_command="rayvldd compare --out FOLDER") from None
    return ComparedStudies(comparison, reports, page, unread)


def chosen_studies(workspace: Workspace, names: Sequence[str], *, may_be_none: bool) -> list[Path]:
    """The folders of the named studies, or of all; what ``rayvldd distill`` or ``experts`` wrote is not a study.

    Raises:
        StoreError: naming every study that does not exist.
    """
    found = (path for path in sorted(workspace.studies.glob("*")) if path.is_dir())
    folders = {path.name: path for path in found if {one.name for one in path.iterdir()} - {"distill", "tracking"}}
    if not folders and may_be_none and not names:
        return []
    if not folders:
        raise StoreError(
            f"{workspace.studies}: no study",
            next_command="rayvldd sweep quickstart, or --workspace FOLDER",
        )
    wrong = [f"no study {name!r}{did_you_mean(name, folders)}" for name in names if name not in folders]
    if wrong:
        message = f"{workspace.studies}: {'; '.join(wrong)}; there are: {', '.join(folders)}"
        raise StoreError(message, next_command="rayvldd compare")
    return [folders[name] for name in dict.fromkeys(names or folders)]
