"""Four renderings of a table: terminal, HTML, CSV and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from rayvldd.config.domains import SettingValue
from rayvldd.printable import printable, value_as_text
from rayvldd.reports.table import Cell, Column, Estimate, Table, number_of
from rayvldd.reports.wrapping import words_of, wrapped

_LONG_NAME: Final = 12
"""Length up to which a name stays in one line of the page; the names of trials are shorter."""
_GAP: Final = 1
"""Spaces between two columns on the terminal."""
_FEWEST: Final = 12
"""Width that a column of texts keeps on the terminal; longer words, e.g. paths, are broken."""

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "→": r"$\rightarrow$",
    "\n": " ",
}


@dataclass(frozen=True)
class TerminalTable:
    """A table without lines for Rich, with the caption at the left; text of cells is shown as it is.

    Words are not broken: a table that is too wide for the terminal is continued below, with its first column repeated.
    Long names are, if possible behind a separator; a mark stays in a line with the end of its name.
    Names, captions and paths are neither markup of Rich nor commands to the terminal.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the caption and the blocks of columns."""
        table = self.table.without_details()
        if table.caption:
            yield Text(printable(table.caption))
        cells = [[printable(column.text(row[n], "±")) for row in table.rows] for n, column in enumerate(table.columns)]
        cells[0] = [f"{text} *" if place in table.best else text for place, text in enumerate(cells[0])]
        sizes = [_widths(column, texts) for column, texts in zip(table.columns, cells, strict=True)]
        for block in _blocks([least for least, _ in sizes], options.max_width):
            widths = _shared([sizes[n] for n in block], options.max_width)
            yield _rich_table(table, cells, dict(zip(block, widths, strict=True)))


def as_terminal(table: Table) -> TerminalTable:
    """Render for ``rich.console.Console.print``; columns of details are left out."""
    return TerminalTable(table)


def as_html(
    table: Table, *, identifier: str = "", study: str = "", sortable: bool = False, labelled: bool = False
) -> str:
    """Render as an HTML ``table`` with its caption.

    Args:
        table: The table.
        identifier: ``id`` of the element.
        study: Name of the study whose trials the rows are; the page highlights the same trial in its plots.
        sortable: Whether headings are buttons, for the script of the page.
        labelled: Whether each cell has its heading, for rows that a narrow screen shows as cards.
    """
    marks = (f' id="{escape(identifier)}"' if identifier else "") + (' class="sortable"' if sortable else "")
    button = ('<button type="button">', "</button>") if sortable else ("", "")
    lines = [f"<table{marks}>"]
    if table.caption:
        lines.append(f"<caption>{_html(table.caption)}</caption>")
    headings = (f'<th scope="col">{button[0]}{_html(heading)}{button[1]}</th>' for heading in table.headings)
    lines += [f"<thead><tr>{''.join(headings)}</tr></thead>", "<tbody>"]
    for number, row in enumerate(table.rows):
        is_best = number in table.best
        mark = ' class="best"' if is_best else ""
        stop = "0" if number == 0 else "-1"  # one tab stop for all rows; the arrow keys go on
        trial = f' data-trial="{escape(f"{study}/{row[0]}")}" tabindex="{stop}"' if study else ""
        cells = [_html_head(table.columns[0], row[0], is_best)]
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            label = f' data-label="{_html(column.heading)}"' if labelled else ""
            cells.append(_html_cell(column, cell, label))
        lines.append(f"<tr{mark}{trial}>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])


def as_csv(table: Table) -> str:
    """Render as CSV with unrounded numbers; an estimate has further columns for interval and share."""
    columns = [(heading, [row[index] for row in table.rows]) for index, heading in enumerate(table.headings)]
    written = [part for heading, cells in columns for part in _csv_parts(heading, cells)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([heading for heading, _ in written])
    writer.writerows(zip(*(values for _, values in written), strict=True))
    return text.getvalue()


def as_latex(table: Table) -> str:
    r"""Render as a ``tabular`` of the LaTeX package booktabs, with $\pm$ before half of an interval."""
    lines = [f"% {line}" for line in table.caption.splitlines()]
    lines += [rf"\begin{{tabular}}{{{''.join(column.align[0] for column in table.columns)}}}", r"\toprule"]
    lines += [" & ".join(map(_latex, table.headings)) + r" \\", r"\midrule"]
    for number, row in enumerate(table.rows):
        cells = []
        for column, cell in zip(table.columns, row, strict=True):
            is_bold = number in table.best | table.bold or (isinstance(cell, Estimate) and cell.is_own)
            text = _latex(column.text(cell))
            cells.append(rf"\textbf{{{text}}}" if is_bold else text)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _widths(column: Column, texts: Sequence[str]) -> tuple[int, int]:
    """The least and the natural width of a column; cells of numbers are not divided."""
    words = [
        *column.heading.split(),
        *(word for text in texts for line in text.splitlines() for word in words_of(line)),
    ]
    heading = max((cell_len(word) for word in column.heading.split()), default=0)
    natural = max(cell_len(line) for text in (column.heading, *texts) for line in text.splitlines() or [""])
    if column.align == "right":
        return max(heading, *(cell_len(text) for text in texts), 0), natural
    longest = max((cell_len(word) for word in words), default=0)
    return max(heading, min(longest, _FEWEST)), natural


def _blocks(least: Sequence[int], width: int) -> list[list[int]]:
    """Divide the columns so that each block fits the width; the first column is repeated."""
    blocks, used = [[0]], least[0]
    for index in range(1, len(least)):
        if used + _GAP + least[index] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = least[0]
        blocks[-1].append(index)
        used += _GAP + least[index]
    return blocks


def _shared(sizes: Sequence[tuple[int, int]], width: int) -> list[int]:
    """Widths of the columns of a block: the least ones, and the remaining space for the columns that need more."""
    widths = [least for least, _ in sizes]
    spare = width - sum(widths) - _GAP * (len(sizes) - 1)
    while spare > 0 and any(given < natural for given, (_, natural) in zip(widths, sizes, strict=True)):
        for index, (_, natural) in enumerate(sizes):
            if widths[index] < natural and spare > 0:
                widths[index] += 1
                spare -= 1
    return widths


def _rich_table(table: Table, cells: Sequence[Sequence[str]], widths: dict[int, int]) -> RichTable:
    shown = RichTable(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for index, width in widths.items():
        column = table.columns[index]
        shown.add_column(Text(printable(column.heading)), justify=column.align, width=width, overflow="fold")
    for number, row in enumerate(table.rows):
        style = "bold" if number in table.best | table.bold else "red" if number in table.faulty else None
        shown.add_row(
            *(
                _terminal_cell(row[index], "\n".join(wrapped(cells[index][number], width, cell_len)))
                for index, width in widths.items()
            ),
            style=style,
        )
    return shown


def _terminal_cell(cell: Cell, text: str) -> Text:
    return Text(text, style="bold" if isinstance(cell, Estimate) and cell.is_own else "")


def _html(text: str) -> str:
    return escape(printable(text))


def breakable_html(text: str) -> str:
    """Escape a text; lines may end behind its underscores and slashes, so that names are not divided within a word."""
    return re.sub("[_/]", r"\g<0><wbr>", _html(text))


def _html_of_name(text: str) -> str:
    """Escape a text, and let lines end within it if it is a long name: other texts have spaces for that."""
    return breakable_html(text) if len(text) > _LONG_NAME and " " not in text else _html(text)


def _html_head(column: Column, cell: Cell, is_best: bool) -> str:
    words = f' data-words="{_html(column.text(cell))}"'
    star = '<span class="star" title="best">★</span> ' if is_best else ""
    return f'<th scope="row"{words}>{star}{_html_of_name(column.text(cell))}{_unseen("best") if is_best else ""}</th>'


def _html_cell(column: Column, cell: Cell, label: str = "") -> str:
    number, text = number_of(cell), _html_of_name(column.text(cell))
    if number is None:
        return f'<td class="number"{label}>{text}</td>' if cell is None else f"<td{label}>{text}</td>"
    is_own = isinstance(cell, Estimate) and cell.is_own
    classes, words = ("number own", _unseen("its own encoder")) if is_own else ("number", "")
    if isinstance(cell, Estimate) and cell.share is not None:  # the page may show it in a line of its own
        value, _, share = text.rpartition(" (")
        text = f'{value} <span class="share">({share}</span>'
    return f'<td class="{classes}"{label} data-value="{number}">{text}{words}</td>'


def _unseen(words: str) -> str:
    return f'<span class="unseen"> ({words})</span>'


def _csv_parts(heading: str, cells: Sequence[Cell]) -> Iterable[tuple[str, list[str | float]]]:
    yield heading, [_csv_value(cell.mean if isinstance(cell, Estimate) else cell) for cell in cells]
    estimates = [cell if isinstance(cell, Estimate) else None for cell in cells]
    ends = [one.interval if one and one.interval else (None, None) for one in estimates]
    if any(low is not None for low, _ in ends):
        yield f"{heading} 95 % low", [_csv_value(low) for low, _ in ends]
        yield f"{heading} 95 % high", [_csv_value(high) for _, high in ends]
    if any(one and one.share is not None for one in estimates):
        yield f"{heading} share of full data", [_csv_value(one.share if one else None) for one in estimates]


def _csv_value(value: SettingValue) -> str | float:
    """A number, or the text of another value; empty for a missing one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, int | float) else value_as_text(value)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text))
