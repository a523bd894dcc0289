"""Common parts of all plots: drawn once by matplotlib, as SVG for the page and as PNG for papers.

A drawing includes a description and its numbers as a table. The colours are those of Okabe and Ito; line styles and
markers differ as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rayvldd.reports.table import PERCENT, Cell, Column, Table, number_of

BEST, FINISHED, STOPPED, FAILED = "#0072b2", "#56b4e9", "#8a8a8a", "#d55e00"
INK, GRID = "#333333", "#e0e0e0"
SCALE = ("#9aa5b2", "#7a9dbf", "#5592c8", "#2a7fbd", "#0b5a92")
"""Colours for a number, from low to high."""
"""The page replaces these colours in dark mode; see ``svg.py``."""

WIDTH_IN = 5.2
"""Width of a column of a paper, and at 72 units per inch that of a phone; text is legible on both."""
_PERCENT = {
    "val",
    "test",
    "95 % low",
    "95 % high",
    "mean",
    "mean recall",
    "low",
    "high",
    "val mean recall",
    "best so far",
}
"""Columns of numbers with the digits of recalls."""
_ROOM_ABOVE = 1.04
"""Top of an axis that begins at zero, as a multiple of matplotlib's own."""
_DPI = 300
"""Resolution of files; journals require it."""


@dataclass(frozen=True)
class Mark:
    """An element of a drawing with a tooltip."""

    words: str
    trial_id: str = ""


@dataclass
class Drawing:
    """A plot with its description and numbers."""

    name: str
    """Stem of its files."""
    title: str
    words: str
    """Its content, and how to read it."""
    figure: Figure
    columns: tuple[str, ...] = ()
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)
    """The numbers that are drawn."""
    marks: list[Mark] = field(default_factory=list)

    def mark(self, artist: Artist, words: str, trial_id: str = "") -> None:
        """Add a tooltip to ``artist``; its name in the SVG is its index in ``marks``."""
        artist.set_gid(f"mark{len(self.marks)}")
        self.marks.append(Mark(words, trial_id))

    @property
    def numbers(self) -> Table:
        """The numbers that are drawn, as a table."""
        columns = []
        for index, title in enumerate(self.columns):
            is_number = any(number_of(row[index]) is not None for row in self.rows)
            number = PERCENT if title in _PERCENT else ""
            columns.append(Column(title, align="right" if is_number else "left", number=number))
        return Table(columns, self.rows, name=self.name)

    def save(self, path: Path) -> None:
        """Write the drawing as a file for papers; the suffix of ``path`` determines the format."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"text.parse_math": False}):
            self.figure.savefig(path, dpi=_DPI, facecolor="white")


def new_axes(height_in: float = 3.4, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with the common width, and its axes in row order."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(INK)
        one.tick_params(colors=INK, labelsize=10)
        one.grid(axis="y", color=GRID, linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def begin_at_zero(axes: Axes) -> None:
    """Begin the vertical axis at 0 once all is drawn, with room for the highest marker.

    matplotlib leaves a twentieth of the range of the values, which is nothing if they are close to each other.
    """
    axes.set_ylim(0, axes.get_ylim()[1] * _ROOM_ABOVE)


def add_legend(figure: Figure, columns: int = 4) -> None:
    """Add a legend above the axes if any series has a name."""
    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)
