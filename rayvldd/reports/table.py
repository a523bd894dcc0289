"""The one type of table of the package: values with a format for each column, and a caption.

``reports/renderers.py`` writes it to the terminal, as HTML, CSV and LaTeX.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rayvldd.config.domains import SettingValue
from rayvldd.printable import value_as_text

MISSING = "–"
"""Text of a cell without a value."""

PERCENT = "{:.2f}"
"""Number format of recalls in percent."""
SHARE = "{:.0f} %"
"""Number format of a fraction of the full-data bound, in percent."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, as one cell; texts have half of the interval."""

    mean: float
    interval: tuple[float, float] | None = None
    share: float | None = None
    """Fraction of the full-data bound, from 0 to 1."""
    is_own: bool = False
    """Whether it belongs to the encoder that its set was distilled with; shown bold."""

    @property
    def half(self) -> float | None:
        """Half of the interval; None if there is none."""
        return (self.interval[1] - self.interval[0]) / 2 if self.interval else None

    @property
    def is_skewed(self) -> bool:
        """Whether the mean, plus and minus half of the interval, is far outside of it, e.g. above 100 percent."""
        if self.interval is None or self.half is None:
            return False
        return abs(sum(self.interval) / 2 - self.mean) > self.half / 2


Cell = SettingValue | Estimate
"""A value; None is a missing one."""


@dataclass(frozen=True)
class Column:
    """Heading and format of a column."""

    title: str
    unit: str = ""
    """Shown in brackets behind the title."""
    align: Literal["left", "right"] = "left"
    number: str = ""
    """Format of values with a fraction, e.g. ``{:.2f}``; default: three significant digits, as for settings."""
    is_detail: bool = False
    """Whether the terminal leaves the column out, because the page and the files have the space for it."""

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, cell: Cell, plus_minus: str = " ± ") -> str:
        """Format a cell of this column; ``plus_minus`` separates a mean from half of its interval.

        A skewed interval has both of its ends in brackets, since the half would promise impossible values.
        """
        if isinstance(cell, Estimate):
            number = self.number or "{:.1f}"
            half = "" if cell.half is None else plus_minus + number.format(cell.half)
            if cell.interval is not None and cell.is_skewed:
                half = f" [{', '.join(map(number.format, cell.interval))}]"
            share = "" if cell.share is None else f" ({100 * cell.share:.0f} %)"
            return number.format(cell.mean) + half + share
        if cell is None:
            return MISSING
        if isinstance(cell, float) and self.number:
            return self.number.format(cell)
        return short(cell)


@dataclass(frozen=True)
class Table:
    """A table; ``rows`` have one cell for each column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    name: str = "table"
    """Stem of its files."""
    best: frozenset[int] = frozenset()
    """Rows that are marked: bold, and with a star."""
    faulty: frozenset[int] = frozenset()
    """Rows that state a fault."""
    bold: frozenset[int] = frozenset()
    """Further rows that are emphasised, without a star."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.name}: a row of {len(row)} cells for {len(self.columns)} columns")

    @property
    def headings(self) -> tuple[str, ...]:
        """Title and unit of every column."""
        return tuple(column.heading for column in self.columns)

    def column(self, heading: str) -> list[Cell]:
        """The cells of one column, by its heading."""
        index = self.headings.index(heading)
        return [row[index] for row in self.rows]

    def without_details(self) -> "Table":
        """The table without columns that only the page and the files have the space for."""
        kept = [index for index, column in enumerate(self.columns) if not column.is_detail]
        columns, rows = [self.columns[index] for index in kept], [[row[index] for index in kept] for row in self.rows]
        return replace(self, columns=columns, rows=rows)


def texts(*titles: str) -> list[Column]:
    """Columns of texts."""
    return [Column(title) for title in titles]


def numbers(*titles: str, number: str = "") -> list[Column]:
    """Columns of numbers with a common format, aligned to the right."""
    return [Column(title, align="right", number=number) for title in titles]


def number_of(cell: Cell) -> float | None:
    """The number of a cell for programs: of an estimate its mean, of a text None."""
    value = cell.mean if isinstance(cell, Estimate) else cell
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def short(value: object) -> str:
    """Format a setting or a number with three significant digits; None is a missing value."""
    if value is None:
        return MISSING
    if not isinstance(value, float):
        return value_as_text(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 100_000 else f"{value:.3g}"
