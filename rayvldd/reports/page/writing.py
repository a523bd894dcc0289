"""Writing of a comparison: a page that opens offline, plots as PNG, tables as CSV and LaTeX."""

import base64
import hashlib
from importlib import resources
from pathlib import Path

import jinja2

import rayvldd
from rayvldd.printable import counted
from rayvldd.reports.page.card import draw_card
from rayvldd.reports.page.drawings import Drawing
from rayvldd.reports.page.sections import Comparison
from rayvldd.reports.page.svg import to_svg
from rayvldd.reports.renderers import as_csv, as_html, as_latex, breakable_html
from rayvldd.reports.table import Table
from rayvldd.storage.atomic import write_text_whole

PAGE = "compare.html"
CARD = "card.png"


def write_comparison(comparison: Comparison, folder: Path, command: str, reload_s: int | None = None) -> Path:
    """Write all files below ``folder`` and return the page's path; existing files are replaced.

    The page is ``compare.html``; ``card.png`` is a picture of the best finished study. ``plots/`` has the plots as PNG
    and their numbers as CSV, ``tables/`` has the tables as CSV and LaTeX; there is one folder for each study, and one
    below ``sets/`` for each other set.

    Args:
        comparison: The studies and sets.
        folder: Folder of the files.
        command: Command line shown as the origin of the page.
        reload_s: Seconds after which a browser reads the page again, since it will be written again; default: never.
    """
    tables, plots = folder / "tables", folder / "plots"
    common = [comparison.studies, comparison.published, comparison.differences]
    common += [group.sets for group in comparison.groups] + [one.table for one in comparison.transfers]
    common += [table for one in comparison.further for table, _ in one.tables]
    for table in filter(None, common):
        _write_table(table, tables)
    drawings = [group.drawing for group in comparison.groups] + [one.drawing for one in comparison.transfers]
    drawings += [comparison.progress] if comparison.progress else []
    drawings += [drawing for one in comparison.further for drawing in one.drawings]
    for drawing in [*drawings, *(drawing for loss in comparison.losses for drawing in loss.drawings)]:
        _write_plot(drawing, plots)
    for section in comparison.sections:
        for table in filter(None, (section.trials, section.recalls, section.front)):
            _write_table(table, tables / section.report.name)
        for drawing in section.drawings:
            _write_plot(drawing, plots / section.report.name)
    for one in comparison.set_sections:
        for drawing in one.drawings:
            _write_plot(drawing, plots / "sets" / one.report.name.replace("/", "_"))
    if comparison.overview is not None:
        section = next(one for one in comparison.sections if one.report.name == comparison.overview.study)
        draw_card(comparison.overview, section.report.distilled, folder / CARD)
    write_text_whole(folder / PAGE, render_page(comparison, command, reload_s))
    return folder / PAGE


def render_page(comparison: Comparison, command: str, reload_s: int | None = None) -> str:
    """Render the page. It loads no other resources and runs only its own script, because captions are untrusted."""
    loader = jinja2.PackageLoader("rayvldd.reports.page", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.globals |= {"svg": to_svg, "html": as_html, "breakable": breakable_html, "counted": counted}
    script = _own("compare.js")
    page: str = environment.get_template("compare.html.j2").render(
        comparison=comparison,
        command=command,
        reload_s=reload_s,
        version=rayvldd.__version__,
        style=_own("compare.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page


def _own(name: str) -> str:
    return resources.files("rayvldd.reports.page").joinpath(name).read_text(encoding="utf-8")


def _write_table(table: Table, folder: Path) -> None:
    write_text_whole(folder / f"{table.name}.csv", as_csv(table))
    write_text_whole(folder / f"{table.name}.tex", as_latex(table))


def _write_plot(drawing: Drawing, folder: Path) -> None:
    drawing.save(folder / f"{drawing.name}.png")
    if drawing.columns and drawing.rows:
        write_text_whole(folder / f"{drawing.name}.csv", as_csv(drawing.numbers))
