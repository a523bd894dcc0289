"""Plots of sets: by number of pairs, on other encoders, by groups of captions, and of the learned similarity."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from rayvldd.config.metrics import (
    MEAN_RECALL,
    MEMBERSHIP_HELD_OUT,
    MEMBERSHIP_TRAIN,
    METRICS,
    NEAREST_DISTILLED,
    NEAREST_START,
)
from rayvldd.records.set_scores import ALL_PAIRS, FurtherScores, GroupRecall, ProbeScore, SubjectKept
from rayvldd.reports.page.baselines import Bound, SizePoint
from rayvldd.reports.page.drawings import (
    BEST,
    FAILED,
    FINISHED,
    GRID,
    INK,
    STOPPED,
    Drawing,
    add_legend,
    begin_at_zero,
    new_axes,
)
from rayvldd.reports.page.transfer import TransferMatrix
from rayvldd.reports.table import Column

_SERIES = (("distilled", BEST, "o"), ("random", STOPPED, "s"))
_MARGIN = 1.3
"""Factor by which the axis extends beyond the smallest and the largest number of pairs."""
_ASIDE = 1.02
"""Horizontal factor between two series, so that error bars at the same number of pairs do not overlap."""
_OTHERS = (("#e69f00", "^"), ("#009e73", "D"), ("#cc79a7", "v"), (FAILED, "P"), (FINISHED, "X"))


def recall_by_pairs(points: Sequence[SizePoint], bound: Bound | None, name: str) -> Drawing:
    """Mean recall on test against the number of pairs, one line per kind of set."""
    figure, (axes,) = new_axes()
    drawing = Drawing(
        name,
        "Recall against number of pairs",
        "Mean recall on test in percent by number of pairs; bars are 95 % intervals over distilled sets (of a single "
        "one over its students) and over draws of real pairs, the dashed line is the full data.",
        figure,
        ("pairs", "trained on", "study or set", "mean recall", "low", "high"),
        [(p.num_pairs, p.kind, p.name, p.mean, *(p.interval or (None, None))) for p in points],
    )
    if bound:
        if bound.interval:
            axes.axhspan(*bound.interval, color=INK, alpha=0.08, linewidth=0)
        line = axes.axhline(bound.mean, color=INK, linestyle="--", linewidth=1.2, label="full data")
        drawing.mark(line, bound.words)
    looks = {kind: (colour, shape) for kind, colour, shape in _SERIES}
    others = [kind for kind in dict.fromkeys(point.kind for point in points) if kind not in looks]
    looks |= {kind: _OTHERS[number % len(_OTHERS)] for number, kind in enumerate(others)}
    for place, (kind, look) in enumerate(looks.items()):
        aside = _ASIDE ** (place - (len(looks) - 1) / 2)
        _draw_series(drawing, axes, [point for point in points if point.kind == kind], look, aside)
    numbers = sorted({point.num_pairs for point in points})
    axes.set_xscale("log")
    axes.set_xlim(numbers[0] / _MARGIN, numbers[-1] * _MARGIN)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("pairs", color=INK)
    axes.set_ylabel("mean recall on test (%)", color=INK)
    begin_at_zero(axes)
    add_legend(figure)
    return drawing


def _draw_series(
    drawing: Drawing, axes: Axes, points: Sequence[SizePoint], look: tuple[str, str], aside: float
) -> None:
    colour, shape = look
    leading: dict[int, SizePoint] = {}
    for point in sorted(points, key=lambda point: (point.num_pairs, point.mean)):
        leading[point.num_pairs] = point
    axes.plot([n * aside for n in leading], [p.mean for p in leading.values()], color=colour, linewidth=1.4, zorder=2)
    for number, point in enumerate(points):
        bar = axes.errorbar(
            [point.num_pairs * aside],
            [point.mean],
            yerr=None
            if point.interval is None
            else [[point.mean - point.interval[0]], [point.interval[1] - point.mean]],
            color=colour,
            marker=shape,
            markersize=7,
            capsize=3,
            linewidth=1.4,
            label=None if number else point.kind,
            zorder=3,
        )
        drawing.mark(bar.lines[0], point.words)


def similarity(matrix: np.ndarray, captions: Sequence[str]) -> Drawing:
    """The learned similarity as a heat map, white at zero.

    Args:
        matrix: Similarity of image i and text j, ``[pair, pair]``.
        captions: Captions of the texts, for the table of the largest off-diagonal entries.
    """
    figure, (axes,) = new_axes(4.6)
    limit = float(np.abs(matrix).max()) or 1.0
    diagonal, beside = np.diag(matrix), matrix[~np.eye(len(matrix), dtype=bool)]
    picture = axes.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_xlabel("text", color=INK)
    axes.set_ylabel("image", color=INK)
    axes.grid(False)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8)
    bar.ax.tick_params(colors=INK, labelsize=9)
    order = np.argsort(np.where(np.eye(len(matrix), dtype=bool), -np.inf, np.abs(matrix)), axis=None)[::-1]
    largest = [divmod(int(place), len(matrix)) for place in order[: min(10, len(beside))]]
    words = (
        f"How much image and text belong together, learned with the {len(matrix)} pairs: on the diagonal "
        f"{diagonal.min():.2f} to {diagonal.max():.2f}, beside it {beside.min():.2f} to {beside.max():.2f}. "
        f"The table has the ten that are largest beside the diagonal."
    )
    rows = [(i, j, float(matrix[i, j]), captions[i], captions[j]) for i, j in largest]
    return Drawing(
        "similarity",
        "Learned similarity",
        words,
        figure,
        ("image", "text", "similarity", "image's own text", "text"),
        rows,
    )


def transfer(matrix: TransferMatrix, name: str) -> Drawing:
    """The transfer matrix as a heat map: fractions of the full-data bound if known, else recalls."""
    rows = list(matrix.rows)
    figure, (axes,) = new_axes(1.3 + 0.42 * len(rows))
    cells = [(row, encoder, cell) for row in rows for encoder, cell in matrix.rows[row].items()]
    shared = all(cell.share is not None for _, _, cell in cells)
    what = "share of the full data" if shared else "mean recall"
    drawing = Drawing(
        name,
        "Transfer to other encoders",
        f"Mean recall on test in percent of students with the image encoder below, trained on the set at the "
        f"left; the colour is the {what}. Frames mark the encoder that a set was made with.",
        figure,
        ("trained on", "made with", "students' encoder", "mean recall", "low", "high", "share of full data (%)"),
        [
            (
                row,
                matrix.made_with.get(row),
                encoder,
                c.mean,
                *(c.interval or (None, None)),
                100 * c.share if c.share is not None else None,
            )
            for row, encoder, c in cells
        ],
    )
    values = np.full((len(rows), len(matrix.encoders)), np.nan)
    for row, encoder, cell in cells:
        values[rows.index(row), matrix.encoders.index(encoder)] = cell.share if shared else cell.mean
    top = float(np.nanmax(values)) or 1.0
    axes.imshow(values, cmap="cividis", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    for row, encoder, cell in cells:
        place = matrix.encoders.index(encoder), rows.index(row)
        ink = "white" if values[place[::-1]] < 0.5 * top else "black"
        axes.text(*place, Column("").text(cell), ha="center", va="center", fontsize=9, color=ink)
        if cell.is_own:
            frame = Rectangle(
                (place[0] - 0.47, place[1] - 0.45), 0.94, 0.9, fill=False, edgecolor=FAILED, linewidth=2.2
            )
            axes.add_patch(frame)
    axes.set_xticks(range(len(matrix.encoders)), [in_two_lines(encoder) for encoder in matrix.encoders])
    axes.set_yticks(range(len(rows)), [in_two_lines(row) for row in rows])
    axes.tick_params(length=0, labelsize=9)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return drawing


_LINE = 14
"""Maximum length of a name next to a plot, in characters per line."""


def in_two_lines(name: str) -> str:
    """Break a long name near its middle, if possible."""
    places = [place for place, letter in enumerate(name) if letter in "_/, " and 0 < place < len(name) - 1]
    if len(name) <= _LINE or not places:
        return name
    middle = min(places, key=lambda place: abs(place - len(name) / 2))
    return f"{name[: middle + 1].rstrip()}\n{name[middle + 1 :]}"


_MOST_SERIES = 6
"""Maximum number of distinguishable series in a plot."""
_LOOKS = ((BEST, "o"), ("#e69f00", "^"), ("#009e73", "D"), ("#cc79a7", "v"), (FAILED, "P"), (FINISHED, "X"))


def recall_by_group(rows: Sequence[GroupRecall], by: str, sets: Mapping[str, str], name: str) -> Drawing:
    """Recall of the captions of each group, with one marker for each training set of students.

    Args:
        rows: The groups of one kind.
        by: The kind of groups: ``length``, ``gender`` or ``noun``.
        sets: Displayed names of the distilled sets, by their names in ``rows``.
        name: Stem of the files.
    """
    series = list(rows[0].recall)
    drawn = series if len(series) <= _MOST_SERIES else [one for one in series if one in sets or one == ALL_PAIRS]
    left_out = "" if len(drawn) == len(series) else " Real pairs are only in the table of numbers."
    figure, (axes,) = new_axes(1.3 + 0.27 * len(rows))
    drawing = Drawing(
        name,
        f"Recall by {_KINDS.get(by, by)}",
        f"Text to image on test, the mean of R@1, 5 and 10 in percent, of the captions in each group among all images; "
        f"the number of captions in brackets.{left_out}",
        figure,
        ("group", "captions", *(sets.get(one, one) for one in series)),
        [(row.group, row.num_captions, *(row.recall[one] for one in series)) for row in rows],
    )
    labels = {one: sets.get(one, one) for one in drawn}
    _draw_rows(drawing, axes, {row.group: row.recall for row in rows}, labels)
    axes.set_yticks(axes.get_yticks(), [f"{row.group} ({row.num_captions})" for row in rows])
    axes.set_xlabel("recall (%)", color=INK)
    return drawing


def _draw_rows(
    drawing: Drawing, axes: Axes, rows: Mapping[str, Mapping[str, float]], labels: Mapping[str, str], digits: int = 1
) -> None:
    """Draw one row of markers for each name in ``rows``, with a marker for each training set in ``labels``."""
    places = range(len(rows) - 1, -1, -1)
    looks = iter(_LOOKS)
    for one, label in labels.items():
        colour, shape = (INK, "|") if one == ALL_PAIRS else next(looks, (STOPPED, "s"))
        named = False
        for place, (row, values) in zip(places, rows.items(), strict=True):
            if one not in values:
                continue
            (mark,) = axes.plot(
                [values[one]],
                [place],
                color=colour,
                marker=shape,
                markersize=7,
                markeredgewidth=1.6,
                linestyle="",
                label=None if named else label,
            )
            named = True
            drawing.mark(mark, f"{row}, {label}: {values[one]:.{digits}f}")
    axes.set_yticks(places, list(rows))
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlim(0, None)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    add_legend(drawing.figure, columns=2)


class _Text(NamedTuple):
    """Name of the files of a drawing, its title, description, and the label of its axis."""

    name: str
    title: str
    words: str
    axis: str


def further_inputs(found: Sequence[FurtherScores], sets: Mapping[str, str], name: str) -> Drawing | None:
    """Percentages of students on further inputs: a row for each input, a marker for each training set.

    Args:
        found: The scores, at most one entry for each kind of input. Of several metrics, mean recall is drawn, or the
            first one in percent.
        sets: Displayed names of the distilled sets, by their names in ``found``.
        name: Stem of the files.

    Returns:
        The drawing; None if no score is a percentage.
    """
    words = "Mean recall, or top-1 of zero-shot classification, in percent, of students of each training set."
    scores = [pair for one in found for pair in _percentages(one)]
    return _draw_scores(scores, sets, _Text(name, "Students on further inputs", words, "mean recall, or top-1 (%)"), 1)


def likeness(found: Sequence[FurtherScores], sets: Mapping[str, str], name: str) -> Drawing | None:
    """What sets reveal of real pairs, from 0 to 1: a row for each measure; arguments as of ``further_inputs``."""
    words = (
        "Cosines of images with the nearest real one: 1 is a copy. AUC of membership inference: 0.5 is a guess, 1 is "
        "certainty."
    )
    scores = [
        (score, METRICS[score.metric].label) for one in found for score in one.scores if score.metric in _LIKENESS
    ]
    return _draw_scores(scores, sets, _Text(name, "What the sets reveal", words, "cosine, or AUC"), 2)


_LIKENESS = tuple(one.name for one in (MEMBERSHIP_TRAIN, MEMBERSHIP_HELD_OUT, NEAREST_START, NEAREST_DISTILLED))


def _draw_scores(
    scores: Sequence[tuple[ProbeScore, str]], sets: Mapping[str, str], text: _Text, digits: int
) -> Drawing | None:
    """Draw scores with the names of their rows, and tooltips of so many digits; None without scores."""
    rows: dict[str, dict[str, ProbeScore]] = {}
    for score, label in scores:
        rows.setdefault(label, {})[score.trained_on] = score
    if not rows:
        return None
    series = list(dict.fromkeys(one for row in rows.values() for one in row))
    drawn = [one for one in series if one in (ALL_PAIRS, *sets) or not one.startswith(tuple(sets))]
    if len(set(drawn) - {ALL_PAIRS}) > _MOST_SERIES:
        drawn = [one for one in drawn if one in (ALL_PAIRS, *sets)]
    figure, (axes,) = new_axes(1.3 + 0.27 * len(rows))
    numbers = [
        (label, sets.get(one, one), score.mean, *(score.interval or (None, None)))
        for label, row in rows.items()
        for one, score in row.items()
    ]
    hint = f"{text.words} What is not drawn is in the table of numbers."
    drawing = Drawing(text.name, text.title, hint, figure, ("row", "trained on", "value", "low", "high"), numbers)
    values = {label: {one: score.mean for one, score in row.items()} for label, row in rows.items()}
    _draw_rows(drawing, axes, values, {one: sets.get(one, one) for one in drawn}, digits)
    axes.set_xlabel(text.axis, color=INK)
    return drawing


def _percentages(found: FurtherScores) -> Iterator[tuple[ProbeScore, str]]:
    """The scores of the leading metric with the names of their rows."""
    metrics = dict.fromkeys(score.metric for score in found.scores if METRICS[score.metric].unit == "%")
    leading = MEAN_RECALL.name if MEAN_RECALL.name in metrics else next(iter(metrics), "")
    where = found.about.get("study") or found.about.get("folder")
    for score in found.scores:
        if score.metric == leading and (score.num_students or score.trained_on == ALL_PAIRS):
            yield score, f"{score.probe} ({where})" if where else score.probe


_KINDS = {"length": "caption length", "gender": "whom captions name", "noun": "what captions name"}


def subjects_kept(shares: Sequence[SubjectKept], label: str, name: str) -> Drawing:
    """Frequency of subjects in the captions nearest to a set's texts, compared with all captions of the data."""
    figure, (axes,) = new_axes(1.0 + 0.27 * len(shares))
    drawing = Drawing(
        name,
        f"Subjects that {label} keeps",
        "Share of captions that name a subject, in percent: bars are 95 % intervals of the captions nearest the set's "
        "texts, lines across are the data. Squares lie off the data; of 24 subjects one will by chance alone.",
        figure,
        ("subject", "data (%)", "start (%)", "nearest captions (%)", "low", "high", "off the data"),
        [
            (
                s.name,
                100 * s.data,
                None if s.start is None else 100 * s.start,
                100 * s.kept,
                100 * s.interval[0],
                100 * s.interval[1],
                "yes" if s.differs else "no",
            )
            for s in shares
        ],
    )
    for place, share in zip(range(len(shares) - 1, -1, -1), shares, strict=True):
        colour, shape = (FAILED, "s") if share.differs else (BEST, "o")
        low, high = (100 * end for end in share.interval)
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
        (mark,) = axes.plot([100 * share.kept], [place], color=colour, marker=shape, markersize=6)
        drawing.mark(
            mark, f"{share.name}: {100 * share.kept:.1f} ({low:.1f} to {high:.1f}), data {100 * share.data:.1f}"
        )
        axes.plot([100 * share.data], [place], color=INK, marker="|", markersize=11, markeredgewidth=2)
    axes.set_yticks(range(len(shares) - 1, -1, -1), [share.name for share in shares])
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlabel("captions that name it (%)", color=INK)
    axes.set_xlim(0, None)
    axes.set_ylim(-0.6, len(shares) - 0.4)
    return drawing
