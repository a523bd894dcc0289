"""What the page says of each study and of all together, put together before any of it is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayvldd.config.domains import Domain, Scalar
from rayvldd.config.loading import dump_study
from rayvldd.reports.page.baselines import CoresetScores, bound_of, points_of, verdicts
from rayvldd.reports.page.drawings import (
    Drawing,
    convergence,
    importance,
    marginals,
    parallel_coordinates,
    pareto_front,
    recall_by_pairs,
    short,
    similarity,
)
from rayvldd.reports.page.expectation import expected_recalls
from rayvldd.reports.page.gallery import GalleryPair, gallery_of
from rayvldd.reports.page.study_report import StudyReport, recall_of, seconds_of
from rayvldd.search.optuna_trials import importance_of_settings

MOST_PAIRS = 300
"""Pairs in all galleries of a page together: about 3 MB at 96 px."""


@dataclass(frozen=True)
class DataTable:
    """A table with its numbers as numbers: shown on the page, and written as CSV and LaTeX."""

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    best: frozenset[int] = frozenset()
    """Rows that are marked."""


@dataclass
class StudySection:
    """What the page shows of one study."""

    report: StudyReport
    recalls: DataTable | None
    trials: DataTable
    drawings: list[Drawing]
    left_out: list[str]
    """Why a drawing is missing."""
    gallery: list[GalleryPair]
    settings: str
    """The settings as YAML; what stands in the file where they do not fit this release."""


@dataclass
class Group:
    """Studies measured with the same stick."""

    measured_on: str
    drawing: Drawing
    verdicts: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """All that the page shows."""

    studies: DataTable
    groups: list[Group]
    sections: list[StudySection]


def compare(reports: Sequence[StudyReport], coresets: Sequence[CoresetScores] = ()) -> Comparison:
    """Put together what the page shows of these studies."""
    most = max(12, MOST_PAIRS // max(1, sum(report.distilled is not None for report in reports)))
    grouped = list(_groups(reports))
    groups = [_group(number, members, coresets) for number, members in enumerate(grouped)]
    ranked = _ranked(reports)
    return Comparison(studies_table(ranked), groups, [_section(report, most) for report in ranked])


def studies_table(reports: Sequence[StudyReport]) -> DataTable:
    """One row a study; the best of those that can be compared is marked."""
    columns = (
        "study",
        "state",
        "pairs",
        "test",
        "95 % low",
        "95 % high",
        "share of full data (%)",
        "random",
        "full data",
        "val",
        "trials",
        "stopped",
        "failed",
        "seconds",
        "measured on",
    )
    rows = [_study_row(report) for report in reports]
    best = {max(members, key=lambda r: r.result.test.mean_recall).name for members in _groups(reports) if members}  # type: ignore[union-attr]
    return DataTable("studies", columns, rows, frozenset(i for i, row in enumerate(rows) if row[0] in best))


def _study_row(report: StudyReport) -> tuple[Any, ...]:
    states = [trial.state for trial in report.trials]
    counts = (len(states), states.count("stopped"), states.count("failed"))
    measured_on = ", ".join(report.measured_on)
    if report.result is None:
        best = report.best_trial
        pairs = len(report.distilled) if report.distilled else report.setting("distillation", "num_pairs")
        val = recall_of(best) if best else None
        return (report.name, report.state, pairs, *[None] * 6, val, *counts, None, measured_on)
    tested = report.result.test
    return (
        report.name,
        report.state,
        report.result.num_pairs,
        tested.mean_recall,
        *tested.interval,
        100 * tested.share_of_full_data,
        tested.random_mean_recall,
        tested.full_data_mean_recall,
        report.result.best.val_mean_recall,
        *counts,
        report.result.seconds.get("total"),
        measured_on,
    )


def _ranked(reports: Sequence[StudyReport]) -> list[StudyReport]:
    """Finished ones first, by recall on test; then the others by name."""

    def place(report: StudyReport) -> tuple[float, str]:
        return (-report.result.test.mean_recall if report.result else 1.0), report.name

    return sorted(reports, key=place)


def _groups(reports: Sequence[StudyReport]) -> Iterable[list[StudyReport]]:
    finished = [report for report in reports if report.result is not None]
    by_key: dict[tuple[str, ...], list[StudyReport]] = {}
    for report in finished:
        by_key.setdefault(report.comparable, []).append(report)
    return by_key.values()


def _group(number: int, members: Sequence[StudyReport], coresets: Sequence[CoresetScores]) -> Group:
    points = points_of(members, coresets)
    drawing = recall_by_pairs(points, bound_of(members), f"recall_by_pairs_{number + 1}")
    return Group(", ".join(members[0].measured_on), drawing, verdicts(points))


def _section(report: StudyReport, most: int) -> StudySection:
    drawings, left_out = _drawings(report)
    settings = dump_study(report.study) if report.study else "\n".join(f"{k}: {v}" for k, v in report.settings.items())
    return StudySection(
        report,
        _recalls_table(report),
        _trials_table(report),
        drawings,
        left_out,
        list(gallery_of(report, most)),
        settings,
    )


def _drawings(report: StudyReport) -> tuple[list[Drawing], list[str]]:
    drawings: list[Drawing] = []
    left_out: list[str] = []
    best_id = report.best_trial.trial_id if report.best_trial else ""
    if any(trial.evaluations for trial in report.trials):
        drawings += [convergence(report.trials, best_id), pareto_front(report.trials, best_id)]
    else:
        left_out.append("No trial has been evaluated, so there is nothing to draw of the search.")
    space = report.study.search.space if report.study else {}
    known = [trial for trial in report.trials if trial.best and _lies_in(trial.point, space)]
    if space and known:
        drawings += [
            parallel_coordinates(known, space, best_id),
            marginals(known, space, best_id, expected_recalls(known, space)),
        ]
        shares = importance_of_settings(known, space)
        if shares:
            drawings.append(importance(shares, len(known)))
        else:
            left_out.append("Importances need at least four trials with different recalls.")
    elif not space and report.study:
        left_out.append("This study searched no settings.")
    matrix = report.distilled.similarity.matrix() if report.distilled else None
    if matrix is not None and report.distilled is not None:
        nearest = [row.nearest for row in report.captions]
        captions = nearest if len(nearest) == len(matrix) else report.distilled.start_captions
        drawings.append(similarity(np.nan_to_num(matrix.numpy()), captions))
    return drawings, left_out


def _lies_in(point: Mapping[str, Scalar], space: Mapping[str, Domain]) -> bool:
    return point.keys() == space.keys() and all(value in space[key] for key, value in point.items())


_RECALLS = tuple(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


def _recalls_table(report: StudyReport) -> DataTable | None:
    if report.result is None:
        return None
    tested = report.result.test
    columns = ("trained on", "TR R@1", "TR R@5", "TR R@10", "IR R@1", "IR R@5", "IR R@10", "mean", "share (%)")
    pairs, bound = report.result.num_pairs, tested.full_data_mean_recall
    sets = [
        (f"{pairs} distilled pairs", tested.model_dump(), tested.mean_recall),
        (f"{pairs} random pairs", tested.recalls.get("random", {}), tested.random_mean_recall),
        ("full data", tested.recalls.get("full_data", {}), bound),
    ]
    rows = [
        (name, *(recalls.get(key) for key in _RECALLS), mean, 100 * mean / bound if bound > 0 else None)
        for name, recalls, mean in sets
    ]
    return DataTable("recalls", columns, rows)


def _trials_table(report: StudyReport) -> DataTable:
    keys = list(dict.fromkeys(key for trial in report.trials for key in trial.point))
    columns = (
        "trial",
        "state",
        "val mean recall",
        "at step",
        "seconds",
        *(k.rpartition(".")[2] for k in keys),
        "reason",
    )
    trials = sorted(report.trials, key=recall_of, reverse=True)
    rows = [
        (
            trial.trial_id,
            trial.state,
            recall_of(trial) if trial.best else None,
            int(trial.best["outer_step"]) if trial.best else None,
            seconds_of(trial),
            *(trial.point.get(key) for key in keys),
            trial.reason,
        )
        for trial in trials
    ]
    best = report.best_trial
    marked = frozenset(i for i, trial in enumerate(trials) if best and trial.trial_id == best.trial_id)
    return DataTable("trials", columns, rows, marked)


def shown(value: Any, column: str = "") -> str:
    """A cell as people read it: recalls with two digits, seconds whole, the rest as settings are written."""
    if isinstance(value, float) and column.startswith("seconds"):
        return f"{value:.0f}"
    if isinstance(value, float) and (column in _PERCENT or column.startswith(("TR ", "IR ", "val"))):
        return f"{value:.2f}"
    if isinstance(value, float) and column.startswith("share"):
        return f"{value:.0f}"
    return short(value)


_PERCENT = {"val", "test", "95 % low", "95 % high", "random", "full data", "mean", "mean recall", "low", "high"}
