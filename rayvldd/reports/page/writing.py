"""Writing of a comparison: a page that opens offline, plots as PNG, tables as CSV and LaTeX."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas

import rayvldd
from rayvldd.reports.page.data_tables import DataTable, as_number, shown
from rayvldd.reports.page.drawings import Drawing
from rayvldd.reports.page.sections import Comparison
from rayvldd.reports.page.svg import to_svg
from rayvldd.reports.page.transfer import Cell
from rayvldd.storage.atomic import write_text_whole

PAGE = "compare.html"


def write_comparison(comparison: Comparison, folder: Path, command: str) -> Path:
    """Write all files below ``folder`` and return the page's path; existing files are replaced.

    The page is ``compare.html``. ``plots/`` has the plots as PNG and their numbers as CSV, ``tables/`` has the tables
    as CSV and LaTeX; there is one folder for each study, and one below ``sets/`` for each other set.
    """
    tables, plots = folder / "tables", folder / "plots"
    common = [comparison.studies, comparison.published]
    common += [group.sets for group in comparison.groups] + [one.table for one in comparison.transfers]
    for table in filter(None, common):
        _write_table(table, tables)
    drawings = [group.drawing for group in comparison.groups] + [one.drawing for one in comparison.transfers]
    for drawing in [*drawings, *(drawing for loss in comparison.losses for drawing in loss.drawings)]:
        _write_plot(drawing, plots)
    for section in comparison.sections:
        for table in filter(None, (section.trials, section.recalls)):
            _write_table(table, tables / section.report.name)
        for drawing in section.drawings:
            _write_plot(drawing, plots / section.report.name)
    for one in comparison.set_sections:
        for drawing in one.drawings:
            _write_plot(drawing, plots / "sets" / one.report.name.replace("/", "_"))
    write_text_whole(folder / PAGE, render_page(comparison, command))
    return folder / PAGE


def render_page(comparison: Comparison, command: str) -> str:
    """Render the page. It loads no other resources and runs only its own script, because captions are untrusted."""
    loader = jinja2.PackageLoader("rayvldd.reports.page", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.globals |= {"svg": to_svg, "shown": shown, "as_number": as_number}
    environment.globals |= {"is_number": _is_number, "is_own": lambda value: isinstance(value, Cell) and value.is_own}
    script = _own("compare.js")
    page: str = environment.get_template("compare.html.j2").render(
        comparison=comparison,
        command=command,
        version=rayvldd.__version__,
        style=_own("compare.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page


def _own(name: str) -> str:
    return resources.files("rayvldd.reports.page").joinpath(name).read_text(encoding="utf-8")


def _is_number(value: Any) -> bool:
    return isinstance(as_number(value), int | float) and not isinstance(value, bool)


def _write_table(table: DataTable, folder: Path) -> None:
    numbers = [[as_number(value) for value in row] for row in table.rows]
    _write_csv(folder / f"{table.name}.csv", table.columns, numbers)
    words = [
        [shown(value, column, table.digits) for column, value in zip(table.columns, row, strict=True)]
        for row in table.rows
    ]
    frame = pandas.DataFrame(words, columns=list(table.columns))
    write_text_whole(folder / f"{table.name}.tex", frame.to_latex(index=False, escape=True))


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    frame = pandas.DataFrame(list(rows), columns=list(columns), dtype=object)
    write_text_whole(file, frame.to_csv(index=False, lineterminator="\n"))


def _write_plot(drawing: Drawing, folder: Path) -> None:
    drawing.save(folder / f"{drawing.name}.png")
    if drawing.columns:
        _write_csv(folder / f"{drawing.name}.csv", drawing.columns, drawing.rows)
