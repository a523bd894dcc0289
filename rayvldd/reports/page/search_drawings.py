"""Plots of a search: progress of the trials, and effects of the searched settings."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from rayvldd.config.domains import ChoiceDomain, DrawnDomain, IntDomain, SettingValue, as_number
from rayvldd.hyperparameter_search.optuna_trials import GOOD_SHARE
from rayvldd.printable import value_as_text
from rayvldd.records.trial import Trial
from rayvldd.reports.page.drawings import (
    BEST,
    FAILED,
    FINISHED,
    INK,
    SCALE,
    STOPPED,
    Drawing,
    add_legend,
    begin_at_zero,
    new_axes,
)
from rayvldd.reports.page.marginals import Curve, height_in
from rayvldd.reports.table import short

_STATES = {
    "finished": (FINISHED, "-", "o"),
    "running": (FINISHED, ":", "o"),
    "stopped": (STOPPED, "--", "s"),
    "failed": (FAILED, "-", "X"),
}
"""Colour, line style and marker by state of a trial."""


def convergence(trials: Sequence[Trial], best_id: str) -> Drawing:
    """Validation recall by outer step of all trials, with the best one in front."""
    figure, (axes,) = new_axes()
    drawing = Drawing(
        "convergence",
        "Convergence of the trials",
        "Validation mean recall by outer step, one line per trial. Stopped trials are dashed and end in a square, "
        "failed ones end in a cross; the best is thick.",
        figure,
        ("trial", "state", "outer step", "val mean recall"),
        [(t.trial_id, t.state, one.outer_step, one.recall) for t in trials for one in t.evaluations],
    )
    seen: set[str] = set()
    for trial in sorted(trials, key=lambda trial: trial.trial_id == best_id):
        if not trial.evaluations:
            continue
        steps = [evaluation.outer_step for evaluation in trial.evaluations]
        recalls = [evaluation.recall for evaluation in trial.evaluations]
        line = _draw_trial(axes, steps, recalls, trial, best_id, seen)
        drawing.mark(line, words_of(trial), trial.trial_id)
    axes.set_xlabel("outer step", color=INK)
    axes.set_ylabel("validation mean recall (%)", color=INK)
    begin_at_zero(axes)
    axes.xaxis.set_major_locator(_whole_numbers())
    add_legend(figure)
    return drawing


def recall_curve(trial: Trial) -> Drawing:
    """Validation recall of one trial by outer step."""
    figure, (axes,) = new_axes(2.4)
    steps = [one.outer_step for one in trial.evaluations]
    recalls = [one.recall for one in trial.evaluations]
    drawing = Drawing(
        "recall_curve",
        "Recall of the chosen trial",
        f"Validation mean recall of {trial.trial_id} by outer step.",
        figure,
        ("outer step", "val mean recall"),
        list(zip(steps, recalls, strict=True)),
    )
    axes.plot(steps, recalls, color=BEST, linewidth=2.4, marker="o", markersize=4)
    axes.set_xlabel("outer step", color=INK)
    axes.set_ylabel("val recall (%)", color=INK)
    begin_at_zero(axes)
    axes.xaxis.set_major_locator(_whole_numbers())
    return drawing


def history(trials: Sequence[Trial], best_id: str) -> Drawing:
    """The best validation recall of each trial in the order of their numbers, and the best so far."""
    figure, (axes,) = new_axes()
    known = [trial for trial in trials if trial.best]
    best = _best_so_far(known)
    drawing = Drawing(
        "history",
        "History of the search",
        "Best validation recall of each trial by its number; the line is the best so far. Marks look as in the "
        "convergence; one of a failed trial below the others is at the lower edge.",
        figure,
        ("trial", "state", "number", "val mean recall", "best so far"),
        [
            (t.trial_id, t.state, t.number, _recall_of(t), None if math.isnan(so_far) else so_far)
            for t, so_far in zip(known, best, strict=True)
        ],
    )
    axes.step([trial.number for trial in known], best, where="post", color=INK, linewidth=1, zorder=1)
    low = _lowest_shown(known)
    for trial in known:
        point = _draw_point(axes, trial.number, max(_recall_of(trial), low), trial, best_id)
        drawing.mark(point, words_of(trial), trial.trial_id)
    axes.set_xlabel("number of the trial", color=INK)
    axes.set_ylabel("validation mean recall (%)", color=INK)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.margins(y=0.1)
    return drawing


def progress_of_studies(trials_of: Mapping[str, Sequence[Trial]]) -> Drawing:
    """The best validation recall so far of several studies on one axis.

    Args:
        trials_of: The trials of each study, by its name; the first studies have colours of their own.
    """
    figure, (axes,) = new_axes(3.6)
    rows: list[tuple[str, int, float]] = []
    drawing = Drawing(
        "progress_of_studies",
        "Best recall so far, of all studies",
        "Best validation recall among the first trials of each study, by the number of trials. Recalls of different "
        "data, encoders or protocols are not comparable.",
        figure,
        ("study", "trials", "val mean recall"),
        rows,
    )
    styles = [(colour, style) for style in ("-", "--", ":") for colour in (BEST, FAILED, STOPPED, FINISHED)]
    for place, (name, trials) in enumerate(trials_of.items()):
        best = _best_so_far([trial for trial in trials if trial.best and trial.state != "failed"])
        if not best:
            continue
        colour, style = styles[place % len(styles)]
        counts = list(range(1, len(best) + 1))
        rows += [(name, count, recall) for count, recall in zip(counts, best, strict=True)]
        label = name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
        (line,) = axes.step(counts, best, where="post", color=colour, linestyle=style, label=label, marker=".")
        drawing.mark(line, f"{name}: {best[-1]:.2f} after {len(best)} trials")
    axes.set_xlabel("trials", color=INK)
    axes.set_ylabel("best validation recall (%)", color=INK)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.margins(y=0.1)
    add_legend(figure, 2)
    return drawing


_LONGEST_LABEL = 28
"""Characters of a study's name in a legend."""


def _best_so_far(trials: Sequence[Trial]) -> list[float]:
    """The highest recall up to each trial; those of failed trials do not count, so the first may be nan."""
    best, found = -math.inf, []
    for trial in trials:
        best = max(best, _recall_of(trial) if trial.state != "failed" else -math.inf)
        found.append(best if math.isfinite(best) else math.nan)
    return found


def _lowest_shown(trials: Sequence[Trial]) -> float:
    """The lower edge of recalls: a failed trial near 0 must not flatten the differences of the others."""
    sound = [_recall_of(trial) for trial in trials if trial.best and trial.state != "failed"]
    return min(sound) - 0.1 * (max(sound) - min(sound)) if sound else 0.0


def parallel_coordinates(trials: Sequence[Trial], space: Mapping[str, DrawnDomain], best_id: str) -> Drawing:
    """Parallel coordinates: one line per trial through the values of its settings to its recall."""
    figure, (axes,) = new_axes(3.8)
    keys = list(space)
    rows = [
        (t.trial_id, t.state, *(t.point.get(key) for key in keys), _recall_of(t) if t.best else None) for t in trials
    ]
    drawing = Drawing(
        "parallel_coordinates",
        "Parallel coordinates",
        "One line per trial: its value of each searched setting, between the bounds of the search, and its best "
        "validation recall on the right. The darker a line, the higher its recall; failed trials are dashed, the best "
        "is thick. A line has a gap where its trial did not search a setting. Drag along an axis to keep the trials "
        "in that range; a click beside the axes ends it.",
        figure,
        ("trial", "state", *map(_last, keys), "val mean recall"),
        rows,
    )
    top = max([_recall_of(trial) for trial in trials if trial.best], default=1.0) or 1.0
    lowest = _lowest_shown(trials)
    for trial in sorted(
        (one for one in trials if one.best), key=lambda one: (one.trial_id == best_id, _recall_of(one))
    ):
        point = trial.point
        heights = [height_in(space[key], point[key]) if key in point else math.nan for key in keys]
        heights.append(_recall_of(trial) / top)
        line = _draw_by_recall(axes, heights, trial, (lowest, top), trial.trial_id == best_id)
        drawing.mark(line, words_of(trial), trial.trial_id)
    axes.grid(False)
    axes.grid(axis="x", color=INK, linewidth=0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    names = [_last(key).replace("_", "_\n", 1) if len(_last(key)) > 9 else _last(key) for key in keys] + ["recall"]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.tick_params(axis="x", length=0, pad=22)
    ends = [_ends(space[key]) for key in keys] + [("0", f"{top:.1f}")]
    for place, (low, high) in enumerate(ends):
        axes.text(place, -0.05, low, ha="center", va="top", fontsize=9, color=INK)
        axes.text(place, 1.05, high, ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_ylim(0, 1)
    return drawing


def _draw_by_recall(
    axes: Axes, heights: Sequence[float], trial: Trial, ends: tuple[float, float], is_best: bool
) -> Artist:
    """A line in the colour of its recall between two ends."""
    low, high = ends
    share = (_recall_of(trial) - low) / (high - low) if high > low else 1.0
    colour = SCALE[min(max(int(share * len(SCALE)), 0), len(SCALE) - 1)]
    failed = trial.state == "failed"
    (line,) = axes.plot(
        range(len(heights)),
        heights,
        color=FAILED if failed else colour,
        linestyle="--" if failed else "-",
        linewidth=2.8 if is_best else 1.4,
        zorder=3 if is_best else 2,
        clip_on=False,
    )
    return line


def importance(shares: Mapping[str, float], among_good: Mapping[str, float], num_trials: int) -> Drawing:
    """Importance of each searched setting in all trials, and for being one of the best.

    Args:
        shares: Fraction of the variance of recall that each setting explains, the largest first.
        among_good: Share of each setting in what makes a trial one of the best.
        num_trials: Number of trials.
    """
    figure, (axes,) = new_axes(1.2 + 0.5 * len(shares))
    drawing = Drawing(
        "importance",
        "Importance of the settings",
        f"Share of the variance of validation recall that each setting explains alone (functional ANOVA, {num_trials} "
        f"trials), and its share in what makes a trial one of the best {GOOD_SHARE:.0%} (PED-ANOVA)."
        + (" With so few trials this is a hint." if num_trials < 30 else ""),
        figure,
        ("setting", "importance", "importance among good trials"),
        [(key, share, among_good.get(key, math.nan)) for key, share in shares.items()],
    )
    names = list(shares)[::-1]
    rows = (("in all trials", shares, BEST, 0.2), ("among good trials", among_good, STOPPED, -0.2))
    for label, values, colour, shift in rows:
        for place, key in enumerate(names):
            share = 100 * values.get(key, 0.0)
            (bar,) = axes.barh([place + shift], [share], color=colour, height=0.36, label=label if place == 0 else None)
            drawing.mark(bar, f"{key}, {label}: {share:.0f} %")
            at = (share, place + shift)
            axes.annotate(f"{share:.0f} %", at, (4, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(names)), [_last(key) for key in names])
    axes.grid(False)
    axes.set_xlim(0, 100 * max([*shares.values(), *among_good.values()], default=1) * 1.15)
    axes.set_xlabel("share (%)", color=INK)
    add_legend(figure)
    return drawing


def marginals(
    trials: Sequence[Trial], space: Mapping[str, DrawnDomain], best_id: str, expected: Mapping[str, Curve]
) -> Drawing:
    """Recall by each searched setting, one marker per trial.

    Args:
        trials: The trials of a study.
        space: The searched domains.
        best_id: Name of the trial to highlight.
        expected: Values and expected recalls (marginals) by setting; may be empty.
    """
    columns = min(2, len(space))
    rows = math.ceil(len(space) / columns)
    figure, panels = new_axes(0.4 + 1.75 * rows, columns, rows)
    line = " The line is a random forest's prediction, averaged over the other settings." if expected else ""
    drawing = Drawing(
        "marginals",
        "Recall by each setting",
        "Best validation recall of each trial by one setting at a time; the other settings vary as well. Squares were "
        f"stopped early, crosses failed (at the lower edge if they are below the others), the best is the large one."
        f"{line}",
        figure,
        ("setting", "value", "expected recall"),
        [(key, value, recall) for key, curve in expected.items() for value, recall in zip(*curve, strict=True)],
    )
    for axes in panels[len(space) :]:
        axes.set_visible(False)
    low = _lowest_shown(trials)
    for axes, (key, domain) in zip(panels, space.items(), strict=False):
        _scale_to(axes, domain)
        if key in expected:
            values, recalls = expected[key]
            axes.plot(list(map(_as_drawn, values)), recalls, color=INK, linewidth=1, zorder=1)
        for trial in sorted(trials, key=lambda trial: trial.trial_id == best_id):
            if trial.best and key in trial.point:
                recall = max(_recall_of(trial), low)
                point = _draw_point(axes, _as_drawn(trial.point[key]), recall, trial, best_id)
                drawing.mark(point, words_of(trial), trial.trial_id)
        axes.set_xlabel(_last(key), color=INK)
        axes.tick_params(labelsize=9)
        axes.margins(0.1)
    figure.supylabel("validation mean recall (%)", fontsize=10, color=INK)
    return drawing


def _scale_to(axes: Axes, domain: DrawnDomain) -> None:
    if isinstance(domain, ChoiceDomain):
        axes.plot([_as_drawn(value) for value in domain.values], [np.nan] * len(domain.values))  # in their order
    elif domain.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(float(value))))
    else:
        axes.xaxis.set_major_locator(_whole_numbers(5) if isinstance(domain, IntDomain) else MaxNLocator(5))


def _as_drawn(value: SettingValue) -> float | str:
    """Convert all values except numbers to text, so that they are not placed on a numeric scale."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else value_as_text(value)


def pareto_front(trials: Sequence[Trial], best_id: str, cost: str = "seconds") -> Drawing:
    """Recall against cost, with the trials that no other trial dominates.

    Args:
        trials: The trials of a study.
        best_id: Name of the trial to highlight.
        cost: ``seconds`` until its best set, as the objective of a study, or ``num_pairs`` of the set.
    """
    costs = [(spent, trial) for trial in trials if trial.best and (spent := _COSTS[cost](trial)) is not None]
    candidates = [(s, _recall_of(t)) if t.state != "failed" else (math.inf, -1.0) for s, t in costs]
    front = front_of(candidates)
    title, what, label = _COST_WORDS[cost]
    figure, (axes,) = new_axes()
    drawing = Drawing(
        "pareto" if cost == "seconds" else f"pareto_{cost}",
        title,
        f"Best validation recall of each trial by {what}. No trial beats those on the line, the Pareto front, in both. "
        "Marks look as in the convergence.",
        figure,
        ("trial", "state", label.partition(" of ")[0], "val mean recall", "on the front"),
        [
            (t.trial_id, t.state, round(s, 1), _recall_of(t), "yes" if i in front else "no")
            for i, (s, t) in enumerate(costs)
        ],
    )
    corners = sorted((costs[i][0], _recall_of(costs[i][1])) for i in front)
    axes.step([c[0] for c in corners], [c[1] for c in corners], where="post", color=INK, linewidth=1, zorder=1)
    low = _lowest_shown(trials)
    for spent, trial in costs:
        point = _draw_point(axes, spent, max(_recall_of(trial), low), trial, best_id)
        drawing.mark(point, words_of(trial), trial.trial_id)
    axes.set_xlabel(label, color=INK)
    axes.set_ylabel("validation mean recall (%)", color=INK)
    axes.set_xlim(0, None)
    axes.margins(y=0.1)
    return drawing


def calibration(trials: Sequence[Trial], best_id: str) -> Drawing:
    """Recall at the last evaluation of each trial against the one that the sampler's model predicted.

    Args:
        trials: The trials of a study; those without a prediction or an evaluation are left out, and failed ones.
        best_id: Name of the trial to highlight.
    """
    rows = [
        (trial, trial.prediction, trial.evaluations[-1])
        for trial in trials
        if trial.prediction and trial.evaluations and trial.state != "failed"
    ]
    errors = [
        abs(last.recall - predicted.recall) / predicted.sd
        for trial, predicted, last in rows
        if trial.state == "finished"
    ]
    figure, (axes,) = new_axes()
    within = [sum(error <= most for error in errors) for most in (1, 2)]
    drawing = Drawing(
        "calibration",
        "Predicted and measured recall",
        "Recall at the last evaluation of each trial against the one that the sampler's model predicted for the last "
        f"outer step when it proposed the trial, with one standard deviation. Of {len(errors)} finished trials "
        f"{within[0]} are within one standard deviation and {within[1]} within two (68 % and 95 % if calibrated). "
        "Squares were stopped early, before the step of the prediction.",
        figure,
        ("trial", "state", "predicted", "sd", "outer step", "val mean recall"),
        [(t.trial_id, t.state, p.recall, p.sd, last.outer_step, last.recall) for t, p, last in rows],
    )
    ends = [p.recall for _, p, _ in rows] + [last.recall for _, _, last in rows]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, linewidth=1, zorder=1)
    for trial, predicted, last in rows:
        low, high = predicted.recall - predicted.sd, predicted.recall + predicted.sd
        axes.plot([low, high], [last.recall, last.recall], color=_STATES[trial.state][0], linewidth=1, zorder=1)
        point = _draw_point(axes, predicted.recall, last.recall, trial, best_id)
        words = f"{words_of(trial)}; predicted {predicted.recall:.2f} ± {predicted.sd:.2f}"
        drawing.mark(point, words, trial.trial_id)
    axes.set_xlabel("predicted recall (%)", color=INK)
    axes.set_ylabel("validation mean recall (%)", color=INK)
    axes.margins(0.1)
    return drawing


def _recall_of(trial: Trial) -> float:
    """The best validation recall of a trial with an evaluation, in percent."""
    assert trial.best is not None
    return trial.best.recall


def _seconds_to_best(trial: Trial) -> float | None:
    return trial.best.seconds if trial.best else None


def _searched_pairs(trial: Trial) -> float | None:
    pairs = trial.point.get("distillation.num_pairs")
    return float(as_number(pairs)) if pairs is not None else None


_COSTS: dict[str, Callable[[Trial], float | None]] = {
    "seconds": _seconds_to_best,
    "num_pairs": _searched_pairs,
}
_COST_WORDS = {
    "seconds": ("Recall against time", "the seconds until its best set, matching and evaluating", "seconds of the set"),
    "num_pairs": ("Recall against pairs", "the pairs that its set may cost", "pairs of the set"),
}


def front_of(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the points (cost, value) that no other point dominates."""
    kept, best = set(), -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            kept.add(index)
    return kept


def words_of(trial: Trial) -> str:
    """Format a trial as one line."""
    recall = f"{trial.best.recall:.2f} at step {trial.best.outer_step}" if trial.best else "no evaluation"
    point = ", ".join(f"{_last(key)} {short(value)}" for key, value in trial.point.items())
    return f"{trial.trial_id}, {trial.state}: {recall}" + (f" ({point})" if point else "")


def _draw_trial(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], trial: Trial, best_id: str, seen: set[str]
) -> Artist:
    colour, style, end = _STATES[trial.state]
    is_best = trial.trial_id == best_id
    label = f"best: {trial.trial_id}" if is_best else trial.state
    (line,) = axes.plot(
        xs,
        ys,
        color=BEST if is_best else colour,
        linestyle="-" if is_best else style,
        linewidth=2.8 if is_best else 1.4,
        marker="o" if is_best else end,
        markevery=None if is_best else [-1],
        markersize=5,
        label=None if label in seen else label,
        zorder=3 if is_best else 2,
        clip_on=False,
    )
    seen.add(label)
    return line


def _draw_point(axes: Axes, x: float | str, y: float, trial: Trial, best_id: str) -> Artist:
    colour, _, shape = _STATES[trial.state]
    is_best = trial.trial_id == best_id
    (point,) = axes.plot(
        [x], [y], linestyle="", marker=shape, color=BEST if is_best else colour, markersize=9 if is_best else 6
    )
    return point


def _whole_numbers(most: int = 9) -> MaxNLocator:
    """Ticks at whole numbers, also if the axis is shorter than 1, as around a single trial."""
    return MaxNLocator(most, integer=True, min_n_ticks=1)


def _ends(domain: DrawnDomain) -> tuple[str, str]:
    if isinstance(domain, ChoiceDomain):
        return short(domain.values[0]), short(domain.values[-1])
    return short(domain.low), short(domain.high)


def _last(key: str) -> str:
    """A dotted key without its section."""
    return key.rpartition(".")[2]
