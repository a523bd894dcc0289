"""What all plots of the page and of papers share: drawn once by matplotlib, as SVG for the one and PNG for the other.

A drawing brings its words along: what it shows in a sentence, and its numbers as a table. Colours are those of Okabe
and Ito; line styles and marks differ as well.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BEST, FINISHED, STOPPED, FAILED = "#0072b2", "#56b4e9", "#8a8a8a", "#d55e00"
INK, GRID = "#333333", "#e0e0e0"
"""The page gives each of these another value in the dark; see ``svg.py``."""

WIDTH_IN = 5.2
"""A column of a paper, and at 72 units an inch the width of a phone: text stays legible on both."""
_DPI = 300
"""Of files: what journals ask for."""


@dataclass(frozen=True)
class Mark:
    """A thing in a drawing that can be pointed at."""

    words: str
    trial_id: str = ""


@dataclass
class Drawing:
    """A plot with its words."""

    name: str
    """Stem of its files."""
    title: str
    words: str
    """What it shows and how to read it."""
    figure: Figure
    columns: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    """The numbers that are drawn."""
    marks: list[Mark] = field(default_factory=list)

    def mark(self, artist: Artist, words: str, trial_id: str = "") -> None:
        """Let ``artist`` be pointed at; its name in the SVG is its place in ``marks``."""
        artist.set_gid(f"mark{len(self.marks)}")
        self.marks.append(Mark(words, trial_id))

    def save(self, path: Path) -> None:
        """Write it as a picture for papers; the suffix of ``path`` is the format."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"text.parse_math": False}):
            self.figure.savefig(path, dpi=_DPI, facecolor="white")


def new_axes(height_in: float = 3.4, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the width that all have, and its axes row by row."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(INK)
        one.tick_params(colors=INK, labelsize=10)
        one.grid(axis="y", color=GRID, linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def short(value: Any) -> str:
    """A setting or a number as people write it."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 100_000 else f"{value:.3g}"


def add_legend(figure: Figure, columns: int = 4) -> None:
    """Name the series above the axes, where any has a name."""
    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)
