"""Tables of the page; it shows them, and writes them as CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rayvldd.config.metrics import RECALLS
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.reports.gain import short_words_without_gain
from rayvldd.reports.page.baselines import ComparableSets
from rayvldd.reports.page.study_report import StudyReport
from rayvldd.reports.page.transfer import TransferMatrix
from rayvldd.reports.published import PublishedRow
from rayvldd.reports.table import PERCENT, Cell, Column, Estimate, Table, numbers, texts
from rayvldd.reports.tables import TOO_FEW, front_table

_RECALLS = tuple(info.name for info in RECALLS)
_RECALL_COLUMNS = ("TR R@1", "TR R@5", "TR R@10", "IR R@1", "IR R@5", "IR R@10")
_SHARE = Column("share of full data", "%", "right", "{:.0f}")


def studies_table(reports: Sequence[StudyReport]) -> Table:
    """One row per study, in the given order; the best comparable study is marked.

    A set that is its starting pairs has a note, in a column that other tables lack.
    """
    notes = [_note(report) for report in reports]
    columns = [
        *texts("study", "state", *(["note"] if any(notes) else [])),
        *numbers("pairs"),
        *numbers("test", number=PERCENT),
        replace(_SHARE, title="share"),
        *numbers("random", "full data", "val", number=PERCENT),
        *numbers("trials", "stopped", "failed"),
        *texts("sets × students"),
        *numbers("tests"),
        *numbers("seconds", number="{:.0f}"),
        *texts("measured on"),
    ]
    rows = [_study_row(report) for report in reports]
    if any(notes):
        rows = [[*row[:2], note, *row[2:]] for row, note in zip(rows, notes, strict=True)]
    by_key: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for report in reports:
        if report.result is not None:
            by_key.setdefault(report.comparable, []).append((report.result.test.mean_recall, report.name))
    best = {max(members, key=lambda member: member[0])[1] for members in by_key.values()}
    marked = frozenset(i for i, row in enumerate(rows) if row[0] in best)
    return Table(columns, rows, "Studies, best first", "studies", marked)


def _note(report: StudyReport) -> str:
    return short_words_without_gain(report.result.best.outer_step) if report.result else ""


def _study_row(report: StudyReport) -> list[Cell]:
    states = [trial.state for trial in report.trials]
    counts = (len(states), states.count("stopped"), states.count("failed"))
    measured_on = ", ".join(report.measured_on)
    if report.result is None:
        best = report.best_trial
        planned = report.setting("distillation", "num_pairs")
        pairs = len(report.distilled) if report.distilled else planned if isinstance(planned, int) else None
        val = best.value() if best else None
        return [report.name, report.state, pairs, *[None] * 4, val, *counts, *[None] * 3, measured_on]
    tested = report.result.test
    return [
        report.name,
        report.state,
        report.result.num_pairs,
        Estimate(tested.mean_recall, tested.interval),
        100 * tested.share_of_full_data,
        tested.random_mean_recall,
        tested.full_data_mean_recall,
        report.result.best.val_mean_recall,
        *counts,
        _sets_of(report.result),
        report.result.test_evaluations,
        report.result.seconds.get("total"),
        measured_on,
    ]


def _sets_of(result: StudyOutcome) -> str:
    """How many sets and students the test has, that there are too few for an interval, and how many more failed."""
    notes = [*([f"interval: {TOO_FEW}"] if result.test.interval is None else [])]
    notes += [result.words_of_failed] if result.words_of_failed else []
    return ", ".join([f"{result.test.num_sets} × {result.test.num_students}", *notes])


def front_of(report: StudyReport) -> Table | None:
    """The Pareto front of a study with several objectives; None for other studies and before the result."""
    return front_table(report.result, report.study.search.choose if report.study else None) if report.result else None


def _ends(interval: tuple[float, float] | None) -> Sequence[Cell]:
    """The cells of the two ends; without an interval that there are too few values for one."""
    return interval or (TOO_FEW, TOO_FEW)


def sets_table(group: ComparableSets, name: str) -> Table:
    """All comparable sets, by number of pairs; the best set of each size is marked."""
    columns = [
        *texts("trained on"),
        *numbers("pairs"),
        *texts("study or set"),
        *numbers(*_RECALL_COLUMNS, "mean", "95 % low", "95 % high", number=PERCENT),
        _SHARE,
        *numbers("students"),
    ]
    bound = group.bound.mean if group.bound else 0.0

    def figures(mean: float, interval: tuple[float, float] | None, recalls: Mapping[str, float]) -> list[Cell]:
        share = 100 * mean / bound if bound > 0 else None
        return [*(recalls.get(key) for key in _RECALLS), mean, *_ends(interval), share]

    rows: list[list[Cell]] = [
        [f"{p.num_pairs} {p.kind} pairs", p.num_pairs, p.name, *figures(p.mean, p.interval, p.recalls), p.num_students]
        for p in group.points
    ]
    best = {
        max((i for i, p in enumerate(group.points) if p.num_pairs == size), key=lambda i: group.points[i].mean)
        for size in {p.num_pairs for p in group.points}
    }
    if group.bound:
        full = group.bound
        recipe = full.recipe.recipe.words if full.recipe else ""
        rows.append(["full data", None, recipe, *figures(full.mean, full.interval, full.recalls), full.num_models])
    caption = (
        "By number of pairs (%): TR image to text, IR text to image; intervals are of the mean; a star marks the best"
    )
    return Table(columns, rows, f"{caption} of each number", name, frozenset(best))


def transfer_table(matrix: TransferMatrix, name: str) -> Table:
    """The transfer matrix, with one row for each training set of students."""
    rows: list[list[Cell]] = [
        [row, matrix.made_with.get(row, ""), *(cells.get(encoder) for encoder in matrix.encoders)]
        for row, cells in matrix.rows.items()
    ]
    columns = [*texts("trained on", "made with"), *numbers(*matrix.encoders, number="{:.1f}")]
    return Table(columns, rows, "Transfer: a row for each training set of students, a column for their encoder", name)


def published_table(rows: Sequence[PublishedRow]) -> Table:
    """Published recalls, from :func:`rayvldd.reports.published.published_rows`."""
    columns = [
        *texts("trained on"),
        *numbers("pairs"),
        *texts("dataset", "source"),
        *numbers(*_RECALL_COLUMNS, "mean", number="{:.1f}"),  # as published
        *texts("chosen on", "protocol"),
    ]
    shown: list[list[Cell]] = [
        [
            row.training_pairs,
            row.pairs,
            row.dataset,
            row.source,
            *_three(row.image_to_text),
            *_three(row.text_to_image),
            row.mean_recall,
            row.chosen_on,
            row.protocol,
        ]
        for row in rows
    ]
    return Table(columns, shown, "Published recall (%): TR image to text, IR text to image", "published")


def _three(values: Sequence[float]) -> list[float | None]:
    return [*values, *[None] * (3 - len(values))]


def recalls_table(report: StudyReport) -> Table | None:
    """Results of the test evaluation of a finished study."""
    if report.result is None:
        return None
    tested = report.result.test
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
    columns = [*texts("trained on"), *numbers(*_RECALL_COLUMNS, "mean", number=PERCENT), replace(_SHARE, title="share")]
    return Table(columns, rows, "Recall on test (%): TR image to text, IR text to image", "recalls")
