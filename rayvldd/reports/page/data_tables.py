"""Tables with numeric values, shown on the page and written as CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayvldd.config.metrics import IMAGE_TO_TEXT, MEAN_RECALL, RECALLS, TEXT_TO_IMAGE
from rayvldd.records.trial import in_order_of_recall
from rayvldd.reports.page.baselines import ComparableSets
from rayvldd.reports.page.drawings import short
from rayvldd.reports.page.study_report import StudyReport
from rayvldd.reports.page.transfer import Cell, TransferMatrix


@dataclass(frozen=True)
class DataTable:
    """A table."""

    name: str
    """Stem of its files."""
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    best: frozenset[int] = frozenset()
    """Rows that are marked."""
    digits: int = 2
    """Decimal places of recalls."""


_RECALLS = tuple(info.name for info in RECALLS)
_RECALL_COLUMNS = ("TR R@1", "TR R@5", "TR R@10", "IR R@1", "IR R@5", "IR R@10")
_PERCENT = {"val", "test", "95 % low", "95 % high", "random", "full data", "mean", "mean recall", "low", "high"}


def shown(value: Any, column: str = "", digits: int = 2) -> str:
    """Format a cell: recalls with ``digits`` decimal places, whole seconds, other values like settings."""
    if isinstance(value, Cell):
        return value.words
    if isinstance(value, float) and column.startswith("seconds"):
        return f"{value:.0f}"
    if isinstance(value, float) and (column in _PERCENT or column.startswith(("TR ", "IR ", "val"))):
        return f"{value:.{digits}f}"
    if isinstance(value, float) and column.startswith("share"):
        return f"{value:.0f}"
    return short(value)


def as_number(value: Any) -> Any:
    """The value of a cell for programs; of a cell of a transfer matrix the mean."""
    return value.mean if isinstance(value, Cell) else value


def studies_table(reports: Sequence[StudyReport]) -> DataTable:
    """One row per study, in the given order; the best comparable study is marked."""
    columns = (
        "study",
        "state",
        "pairs",
        "test",
        "95 % low",
        "95 % high",
        "sets × students",
        "test evaluations",
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
    by_key: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for report in reports:
        if report.result is not None:
            by_key.setdefault(report.comparable, []).append((report.result.test.mean_recall, report.name))
    best = {max(members, key=lambda member: member[0])[1] for members in by_key.values()}
    return DataTable("studies", columns, rows, frozenset(i for i, row in enumerate(rows) if row[0] in best))


def _study_row(report: StudyReport) -> tuple[Any, ...]:
    states = [trial.state for trial in report.trials]
    counts = (len(states), states.count("stopped"), states.count("failed"))
    measured_on = ", ".join(report.measured_on)
    if report.result is None:
        best = report.best_trial
        pairs = len(report.distilled) if report.distilled else report.setting("distillation", "num_pairs")
        val = best.value() if best else None
        return (report.name, report.state, pairs, *[None] * 8, val, *counts, None, measured_on)
    tested = report.result.test
    return (
        report.name,
        report.state,
        report.result.num_pairs,
        tested.mean_recall,
        *tested.interval,
        f"{tested.num_sets} × {tested.num_students}",
        report.result.test_evaluations,
        100 * tested.share_of_full_data,
        tested.random_mean_recall,
        tested.full_data_mean_recall,
        report.result.best.val_mean_recall,
        *counts,
        report.result.seconds.get("total"),
        measured_on,
    )


def sets_table(group: ComparableSets, name: str) -> DataTable:
    """All comparable sets, by number of pairs; the best set of each size is marked."""
    columns = (
        "trained on",
        "pairs",
        "study or set",
        *_RECALL_COLUMNS,
        "mean",
        "95 % low",
        "95 % high",
        "share of full data (%)",
        "students",
    )
    bound = group.bound.mean if group.bound else 0.0

    def figures(mean: float, interval: tuple[float, float] | None, recalls: Mapping[str, float]) -> tuple[Any, ...]:
        share = 100 * mean / bound if bound > 0 else None
        return (*(recalls.get(key) for key in _RECALLS), mean, *(interval or (None, None)), share)

    rows: list[tuple[Any, ...]] = [
        (f"{p.num_pairs} {p.kind} pairs", p.num_pairs, p.name, *figures(p.mean, p.interval, p.recalls), p.num_students)
        for p in group.points
    ]
    best = {
        max((i for i, p in enumerate(group.points) if p.num_pairs == size), key=lambda i: group.points[i].mean)
        for size in {p.num_pairs for p in group.points}
    }
    if group.bound:
        full = group.bound
        recipe = full.recipe.recipe.words if full.recipe else ""
        rows.append(("full data", None, recipe, *figures(full.mean, full.interval, full.recalls), full.num_models))
    return DataTable(name, columns, rows, frozenset(best))


def transfer_table(matrix: TransferMatrix, name: str) -> DataTable:
    """The transfer matrix, with one row for each training set of students."""
    rows = [
        (row, matrix.made_with.get(row, ""), *(cells.get(encoder) for encoder in matrix.encoders))
        for row, cells in matrix.rows.items()
    ]
    return DataTable(name, ("trained on", "made with", *matrix.encoders), rows)


def published_table(rows: Sequence[Mapping[str, Any]]) -> DataTable:
    """Published recalls, from :func:`rayvldd.reports.published.published_rows`."""
    columns = ("trained on", "pairs", "dataset", "source", *_RECALL_COLUMNS, "mean", "chosen on", "protocol")

    def three(row: Mapping[str, Any], way: str) -> list[float | None]:
        values = list(row.get(way) or [])
        return values + [None] * (3 - len(values))

    table: list[tuple[Any, ...]] = [
        (
            f"{row['pairs'] or 'all'} {row['trained_on'].removeprefix('all ').removesuffix(' pairs')} pairs"
            if row["pairs"]
            else row["trained_on"],
            row["pairs"],
            row["dataset"],
            row["source"],
            *three(row, IMAGE_TO_TEXT),
            *three(row, TEXT_TO_IMAGE),
            row[MEAN_RECALL.name],
            row["chosen_on"],
            row["protocol"],
        )
        for row in rows
    ]
    return DataTable("published", columns, table, digits=1)  # as published


def recalls_table(report: StudyReport) -> DataTable | None:
    """Results of the test evaluation of a finished study."""
    if report.result is None:
        return None
    tested = report.result.test
    columns = ("trained on", *_RECALL_COLUMNS, "mean", "share (%)")
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


def trials_table(report: StudyReport) -> DataTable:
    """The trials of a study, best first."""
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
    trials = in_order_of_recall(report.trials)
    rows = [
        (
            trial.trial_id,
            trial.state,
            trial.value(),
            trial.best.outer_step if trial.best else None,
            trial.seconds,
            *(trial.point.get(key) for key in keys),
            trial.reason,
        )
        for trial in trials
    ]
    best = report.best_trial
    marked = frozenset(i for i, trial in enumerate(trials) if best and trial.trial_id == best.trial_id)
    return DataTable("trials", columns, rows, marked)
