"""Tables of results, and lines about them; ``reports/renderers.py`` writes them.

This module does not import torch: the result of a finished study is shown without it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rayvldd.config.metrics import METRICS, OBJECTIVES, RECALLS
from rayvldd.config.study import ChooseSettings
from rayvldd.evaluation.intervals import interval_if_enough
from rayvldd.printable import value_as_text
from rayvldd.records.set_scores import (
    ALL_PAIRS,
    EvaluatedBound,
    EvaluatedCoreset,
    EvaluatedSet,
    FurtherScores,
    GroupRecall,
    ProbeScore,
)
from rayvldd.records.stop_reasons import short_reason
from rayvldd.records.study_outcome import FinalistOutcome, Interval, StudyOutcome
from rayvldd.records.trial import Trial, in_order_of_recall
from rayvldd.reports.table import PERCENT, SHARE, Cell, Column, Estimate, Table, numbers, texts

if TYPE_CHECKING:
    from rayvldd.evaluation.breakdown import SubjectShare
    from rayvldd.evaluation.recall import RetrievalMetrics

TOO_FEW = "too few to say"
"""Text in place of an interval of fewer than three values."""


def trials_table(trials: Sequence[Trial], best_id: str = "", *, for_terminal: bool = False) -> Table:
    """The trials of a study by descending validation recall; the best one is marked.

    Beside the recall is the one that the sampler's model predicted for the last outer step, if it has such a model.

    Args:
        trials: The trials.
        best_id: Name of the best one.
        for_terminal: Whether the state of a stopped trial says by what; the full reason is a column of details.
    """
    predicted = any(trial.prediction for trial in trials)
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    columns = [
        *texts("trial", "state"),
        *numbers("val mean recall", number=PERCENT),
        *(numbers("predicted", "sd", number=PERCENT) if predicted else []),
        *numbers("at step"),
        Column("seconds", align="right", number="{:.0f}", is_detail=True),
        *numbers(*(key.rpartition(".")[2] for key in keys)),
        Column("reason", is_detail=True),
    ]
    ordered = in_order_of_recall(trials)
    rows = [
        [
            trial.trial_id,
            _state_and_reason(trial) if for_terminal else trial.state,
            trial.value(),
            *(_prediction(trial) if predicted else []),
            trial.best.outer_step if trial.best else None,
            trial.seconds,
            *(_setting(trial, key) for key in keys),
            trial.reason,
        ]
        for trial in ordered
    ]
    best = frozenset(place for place, trial in enumerate(ordered) if trial.trial_id == best_id)
    return Table(columns, rows, "Trials, by validation mean recall (%)", "trials", best)


def _state_and_reason(trial: Trial) -> str:
    short = short_reason(trial.reason) if trial.state == "stopped" else ""
    return f"{trial.state}: {short}" if short else trial.state


def _prediction(trial: Trial) -> list[Cell]:
    return [trial.prediction.recall, trial.prediction.sd] if trial.prediction else [None, None]


def _setting(trial: Trial, key: str) -> Cell:
    """The value of a searched setting; lists and null as in a study file."""
    if key not in trial.point:
        return None
    value = trial.point[key]
    return value if isinstance(value, str | int | float) else value_as_text(value)


def recalls_table(scores: Mapping[str, Sequence["RetrievalMetrics"]], title: str = "", *, full_data: str = "") -> Table:
    """Recalls of several sets in percent: mean over students, ± half of its 95 % interval.

    The number of students follows the name; there is no interval for fewer than three. TR is image to text, IR is text
    to image, as usual. If ``full_data`` names a row, the last column is the fraction of its mean recall.
    """
    bound = scores.get(full_data)
    columns = [
        Column("trained on"),
        *numbers("TR R@1", "R@5", "R@10", "IR R@1", "R@5", "R@10", "mean", number="{:.1f}"),
    ]
    if bound:
        columns += numbers("share", number=SHARE)
    rows: list[list[Cell]] = []
    for name, students in scores.items():
        values = [student.as_dict() for student in students]
        cells: list[Cell] = [estimate([row[info.name] for row in values]) for info in RECALLS]
        cells.append(estimate([student.mean_recall for student in students]))
        rows.append([f"{name} ({len(students)})", *cells, *([_percent_of(students, bound)] if bound else [])])
    caption = (
        f"{title or 'Recall (%)'}, ± 95 % interval of three or more students; TR: image to text, IR: text to image"
    )
    return Table(columns, rows, caption, "recalls")


def transfer_table(
    columns: Mapping[str, Mapping[str, Sequence["RetrievalMetrics"]]],
    made_with: Mapping[str, str],
    title: str,
    *,
    full_data: str = "",
) -> Table:
    """Mean recalls of several sets on several image encoders, in percent, ± half of the 95 % interval.

    Args:
        columns: Recalls by training set, by encoder of the students.
        made_with: The encoder that each set was distilled with; its cell is bold.
        title: Title of the table.
        full_data: Name of the row of the full-data bound, if there is one; each cell then has its fraction of it.
    """
    rows: list[list[Cell]] = []
    for name in dict.fromkeys(row for rows_of in columns.values() for row in rows_of):
        cells: list[Cell] = []
        for encoder, rows_of in columns.items():
            if name not in rows_of:
                cells.append(None)
                continue
            values = [student.mean_recall for student in rows_of[name]]
            share = share_of(rows_of[name], rows_of[full_data]) if full_data in rows_of else None
            cells.append(estimate(values, share, made_with.get(name) == encoder))
        rows.append([name, made_with.get(name, ""), *cells])
    titles = [*texts("trained on", "made with"), *numbers(*columns, number="{:.1f}")]
    return Table(titles, rows, f"{title}, ± 95 % interval of three or more students", "transfer")


def scaling_table(
    rows: Mapping[int, Mapping[str, EvaluatedSet | EvaluatedCoreset]], bounds: Sequence[EvaluatedBound], title: str
) -> Table:
    """Mean recalls by number of pairs, with a column for distilled sets and each method of coresets.

    Args:
        rows: By number of pairs, then by name of the column.
        bounds: All pairs, as a last row.
        title: Title of the table.
    """
    names = list(dict.fromkeys(name for by_name in rows.values() for name in by_name))
    shown: list[list[Cell]] = []
    for number, by_name in rows.items():
        best = max(row.mean_recall for row in by_name.values())
        cells: list[Cell] = []
        for name in names:
            row = by_name.get(name)
            cells.append(
                None
                if row is None
                else Estimate(row.mean_recall, row.mean_interval, row.share_of_full_data, row.mean_recall == best)
            )
        shown.append([f"{number:,}", *cells])
    for bound in bounds:
        shown.append([ALL_PAIRS, Estimate(bound.mean_recall, bound.mean_interval), *[None] * (len(names) - 1)])
    columns = [Column("pairs", align="right"), *numbers(*names, number="{:.1f}")]
    return Table(columns, shown, f"{title}, ± 95 % interval of three or more students", "scaling")


def breakdown_table(
    rows: Sequence[GroupRecall], title: str, *, names: Mapping[str, str] | None = None, full_data: str = ""
) -> Table:
    """Recall by groups of captions, with one column for each training set of students.

    Args:
        rows: The groups.
        title: Title of the table.
        names: Other names of training sets, as headings; default: as in the rows.
        full_data: Name of the column of the full data, if there is one; the other cells then have their fraction of it.
    """
    shown: list[list[Cell]] = []
    for place, row in enumerate(rows):
        bound = row.recall.get(full_data, 0.0)
        cells: list[Cell] = [
            Estimate(value, share=value / bound if bound and name != full_data else None)
            for name, value in row.recall.items()
        ]
        by = "" if place and rows[place - 1].by == row.by else row.by
        shown.append([by, row.group, row.num_captions, *cells])
    headings = [(names or {}).get(name, name) for name in rows[0].recall]
    columns = [*texts("by", "group"), *numbers("captions", *headings, number="{:.1f}")]
    return Table(columns, shown, title, "breakdown")


def further_table(found: FurtherScores, *, names: Mapping[str, str] | None = None, full_data: str = "") -> Table:
    """Scores of students on further inputs: a row for each training set, a column for each number.

    Args:
        found: The scores.
        names: Other names of training sets; default: as in the scores.
        full_data: Name of the row of the full-data bound, if there is one; the other cells then have their fraction.
    """
    columns = list(dict.fromkeys((score.probe, score.metric) for score in found.scores))
    by_cell = {(score.trained_on, score.probe, score.metric): score for score in found.scores}
    rows: list[list[Cell]] = []
    for name in dict.fromkeys(score.trained_on for score in found.scores):
        of_row = [by_cell.get((name, *column)) for column in columns]
        students = max(score.num_students for score in of_row if score)
        cells: list[Cell] = [
            None if score is None else _further_cell(score, by_cell.get((full_data, *column)))
            for score, column in zip(of_row, columns, strict=True)
        ]
        shown = _renamed(name, names or {})
        rows.append([f"{shown} ({students})" if students else shown, *cells])
    probes, metrics = ({column[place] for column in columns} for place in (0, 1))
    titles = []
    for probe, metric in columns:
        label = METRICS[metric].label.replace("image to text", "TR").replace("text to image", "IR")
        both = f"{probe}, {label}" if len(metrics) > 1 else probe
        titles.append(both if len(probes) > 1 else label)
    formats = ["{:.1f}" if METRICS[metric].unit == "%" else "{:.3f}" for _, metric in columns]
    headed = [Column(title, align="right", number=form) for title, form in zip(titles, formats, strict=True)]
    caption = f"{found.title}, ± 95 % interval of three or more students"
    return Table([Column("trained on"), *headed], rows, caption, found.evaluation)


def _renamed(row: str, names: Mapping[str, str]) -> str:
    """The name of a row, which begins with that of a set if it belongs to one."""
    found = max((name for name in names if row.startswith(name)), key=len, default="")
    return names[found] + row.removeprefix(found) if found else row


def _further_cell(score: ProbeScore, bound: ProbeScore | None) -> Estimate:
    """A cell with the fraction of the bound; the bound itself and values without students have none."""
    has_share = bound is not None and bound is not score and bound.mean > 0 and score.num_students > 0
    return Estimate(score.mean, score.interval, score.mean / bound.mean if bound and has_share else None)


def subjects_table(shares: Sequence["SubjectShare"], title: str) -> Table:
    """Frequency of subjects in the captions of the data, of a set's initial pairs, and nearest to its texts."""
    rows: list[list[Cell]] = []
    for share in shares:
        low, high = (100 * end for end in share.interval)
        start = None if share.start is None else 100 * share.start
        rows.append([share.name, 100 * share.data, start, 100 * share.kept, f"{low:.1f} to {high:.1f}"])
    columns = [*texts("subject"), *numbers("data", "start", "nearest captions", "95 % interval", number="{:.1f}")]
    differing = frozenset(place for place, share in enumerate(shares) if share.differs)
    return Table(columns, rows, f"{title}; *: the data's share is outside the 95 % interval", "subjects", differing)


def result_table(result: StudyOutcome) -> Table:
    """Test results of a finished study, with random pairs and the full data."""
    tested = result.test
    full = tested.full_data_mean_recall
    sets: list[tuple[str, float, str]] = [
        (f"distilled pairs ({result.sets_and_students})", tested.mean_recall, interval_as_text(tested.interval)),
        ("as many random pairs", tested.random_mean_recall, ""),
        ("the full data", full, ""),
    ]
    rows = [(name, recall, words, 100 * recall / full if full > 0 else None) for name, recall, words in sets]
    columns = [
        *texts("trained on"),
        *numbers("mean recall", number=PERCENT),
        *numbers("95 % interval"),
        *numbers("share of full data", number=SHARE),
    ]
    return Table(columns, rows, f"{result.study}: mean recall on test (%)", "result", bold=frozenset({0}))


def finalists_table(result: StudyOutcome) -> Table:
    """Recalls of the finalists in the search, and of their points with new seeds, in the order of the choice."""
    finalists = sorted(result.finalists, key=lambda row: (row.num_failed, -(row.val_mean_recall or 0.0)))
    rows = [_finalist_row(row) for row in finalists]
    columns = [
        *texts("trial"),
        *numbers("mean", number=PERCENT),
        *numbers("95 % interval", "sets"),
        *texts("failed"),
        *numbers("in the search", number=PERCENT),
    ]
    caption = "Finalists, by mean recall on validation of sets with new seeds (%)"
    if any(row.num_failed for row in finalists):
        caption += "; failed sets are not in the mean, and the fewest failures are chosen first"
    best = frozenset(place for place, row in enumerate(finalists) if row.trial_id == result.best.trial_id)
    return Table(columns, rows, caption, "finalists", best)


def _finalist_row(row: FinalistOutcome) -> list[Cell]:
    made = len(row.sets) - row.num_failed
    interval = interval_as_text(row.val_interval)
    failed = row.words_of_failed or None
    return [row.trial_id, row.val_mean_recall, interval, made, failed, row.search_val_mean_recall]


def front_table(result: StudyOutcome, choose: ChooseSettings | None = None) -> Table | None:
    """The members of the Pareto front of a study with several objectives; the chosen one is marked.

    Args:
        result: The result of the study.
        choose: The rule that has chosen it, which the caption states.
    """
    front = result.front
    if not front:
        return None
    settings = list(dict.fromkeys(key for row in front for key in row.config))
    objectives = numbers(*front[0].objectives)
    columns = [*texts("trial"), *objectives, *texts(*(key.rpartition(".")[2] for key in settings))]
    rows: list[list[Cell]] = [
        [row.trial_id, *row.objectives.values(), *(row.config.get(key) for key in settings)] for row in front
    ]
    marked = frozenset(place for place, row in enumerate(front) if row.trial_id == result.best.trial_id)
    caption = "Pareto front: no other trial is better in all objectives; a star marks the chosen one"
    if choose is not None:
        caption += f", that with the {words_of_choice(choose)} (search.choose)"
    return Table(columns, rows, caption, "front", marked)


def words_of_choice(choose: ChooseSettings) -> str:
    """The rule that chooses from a front, e.g. ``highest val_mean_recall among those with num_pairs at most 200``."""
    bounds = [f"{name} at most {value:g}" for name, value in choose.at_most.items()]
    bounds += [f"{name} at least {value:g}" for name, value in choose.at_least.items()]
    among = f" among those with {' and '.join(bounds)}" if bounds else ""
    return f"{'highest' if OBJECTIVES[choose.by].rises else 'lowest'} {choose.by}{among}"


def trust_of(result: StudyOutcome) -> str:
    """One line about the basis of a study's result: interval, sets, students and test evaluations."""
    tested, looks = result.test, result.test_evaluations
    times = "once" if looks == 1 else f"{looks} times"
    return (
        f"{tested.mean_recall:.2f} on test, 95 % interval {interval_as_text(tested.interval)} over "
        f"{tested.interval_over}, {result.sets_and_students}, protocol {result.protocol}; test evaluated {times}"
    )


def importance_line(importance: Mapping[str, float], most: int = 3) -> str:
    """The most important settings, with their shares; empty if unknown."""
    shares = sorted(importance.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{key.rpartition('.')[2]} {100 * share:.0f} %" for key, share in shares[:most])


def comparison_table(results: Sequence[StudyOutcome]) -> Table:
    """Several finished studies, best test recall first; ``n`` is distilled sets × students of each."""
    rows: list[list[Cell]] = []
    for result in sorted(results, key=lambda row: row.test.mean_recall, reverse=True):
        tested = result.test
        rows.append(
            [
                result.study,
                result.protocol,
                result.num_pairs,
                sum(result.trials.values()),
                result.best.val_mean_recall,
                tested.mean_recall,
                interval_as_text(tested.interval),
                ", ".join(filter(None, (f"{tested.num_sets} × {tested.num_students}", result.words_of_failed))),
                tested.random_mean_recall,
                tested.full_data_mean_recall,
                f"{100 * tested.share_of_full_data:.0f} %",
            ]
        )
    titles = ("pairs", "trials", "val", "test", "95 % interval", "n", "random", "full", "share")
    columns = [*texts("study", "protocol"), *numbers(*titles, number=PERCENT)]
    caption = "Finished studies, by mean recall on test (%); n: sets × students"
    return Table(columns, rows, caption, "comparison", frozenset({0}))


def estimate(values: Sequence[float], share: float | None = None, is_own: bool = False) -> Estimate:
    """The mean of values with its 95 % interval, which fewer than three values do not have."""
    return Estimate(float(np.mean(values)), interval_if_enough(values), share, is_own)


def interval_as_text(interval: Interval | None) -> str:
    """``17.50 to 18.50``, or that there are too few values."""
    return TOO_FEW if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def share_of(students: Sequence["RetrievalMetrics"], bound: Sequence["RetrievalMetrics"]) -> float | None:
    """The students' mean recall as a fraction of the full-data bound; None if that is 0."""
    mean, full = (float(np.mean([student.mean_recall for student in group])) for group in (students, bound))
    return mean / full if full > 0 else None


def _percent_of(students: Sequence["RetrievalMetrics"], bound: Sequence["RetrievalMetrics"]) -> float | None:
    share = share_of(students, bound)
    return None if share is None else 100 * share
