"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from rayvldd.config.domains import SettingValue
from rayvldd.evaluation.breakdown import SubjectShare
from rayvldd.evaluation.intervals import recall_interval
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.printable import value_as_text
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.trial import Trial, in_order_of_recall
from rayvldd.reports.plain_table import PlainTable

_RECALLS = tuple(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


def trials_table(trials: Sequence[Trial], best_id: str = "") -> Table:
    """The trials of a study by descending validation recall; the best one is marked."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    table = plain_table("Trials, by validation mean recall (%)")
    for name in ("trial", "state", "val mean recall", "at step"):
        table.add_column(name, justify="right" if name in ("val mean recall", "at step") else "left")
    for key in keys:
        table.add_column(key.rpartition(".")[2], justify="right")
    for trial in in_order_of_recall(trials):
        best, is_best = trial.best, trial.trial_id == best_id
        scores = [f"{best.recall:.2f}", str(best.outer_step)] if best else ["–", "–"]
        cells = [trial.trial_id + (" *" if is_best else ""), trial.state, *scores]
        cells += [_short(trial.point[key]) if key in trial.point else "–" for key in keys]
        table.add_row(*map(Text, cells), style="bold" if is_best else None)
    return table


def recalls_table(scores: Mapping[str, Sequence[RetrievalMetrics]], title: str = "", *, full_data: str = "") -> Table:
    """Recalls of several sets in percent: mean over students, ± half of its 95 % t-interval.

    The number of students follows the name; there is no interval for a single one. TR is image to text, IR is text to
    image, as usual in publications. If ``full_data`` names a row, the last column is the fraction of its mean recall.
    """
    table = plain_table(f"{title or 'Recall (%)'}, ± 95 % interval; TR: image to text, IR: text to image")
    table.add_column("trained on", overflow="fold")
    bound = scores.get(full_data)
    for column in ("TR R@1", "R@5", "R@10", "IR R@1", "R@5", "R@10", "mean", *(["share"] if bound else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for name, students in scores.items():
        columns = [[getattr(student, recall) for student in students] for recall in _RECALLS]
        columns.append([student.mean_recall for student in students])
        cells = [mean_and_interval(column) for column in columns]
        table.add_row(Text(f"{name} ({len(students)})"), *cells, *([share_of(students, bound)] if bound else []))
    return table


def transfer_table(
    columns: Mapping[str, Mapping[str, Sequence[RetrievalMetrics]]],
    made_with: Mapping[str, str],
    title: str,
    *,
    full_data: str = "",
) -> Table:
    """Mean recalls of several sets on several image encoders, in percent, ± half of the 95 % t-interval.

    Args:
        columns: Recalls by training set, by encoder of the students.
        made_with: The encoder that each set was distilled with; its cell is bold.
        title: Title of the table.
        full_data: Name of the row of the full-data bound, if there is one; each cell then has its fraction of it.
    """
    table = plain_table(f"{title}, ± 95 % interval")
    table.add_column("trained on", overflow="fold")
    table.add_column("made with", overflow="fold")
    for encoder in columns:
        table.add_column(encoder, justify="right", overflow="fold")
    for name in dict.fromkeys(row for rows in columns.values() for row in rows):
        cells = []
        for encoder, rows in columns.items():
            share = f" ({share_of(rows[name], rows[full_data])})" if full_data in rows else ""
            cell = mean_and_interval([student.mean_recall for student in rows[name]]) + share
            cells.append(Text(cell, style="bold" if made_with.get(name) == encoder else ""))
        table.add_row(Text(name), Text(made_with.get(name, "")), *cells)
    return table


def breakdown_table(rows: Sequence[Mapping[str, Any]], title: str, *, full_data: str = "") -> Table:
    """Recall by groups of captions, with one column for each training set of students.

    Args:
        rows: Each with ``by``, ``group``, ``num_captions`` and ``recall``, in percent by training set.
        title: Title of the table.
        full_data: Name of the column of the full data, if there is one; the other cells then have their fraction of it.
    """
    table = plain_table(title)
    for name in ("by", "group"):
        table.add_column(name)
    for name in ("captions", *rows[0]["recall"]):
        table.add_column(name, justify="right", overflow="fold")
    by = ""
    for row in rows:
        bound = row["recall"].get(full_data, 0.0)
        cells = [
            f"{value:.1f}" + (f" ({100 * value / bound:.0f} %)" if bound and name != full_data else "")
            for name, value in row["recall"].items()
        ]
        table.add_row("" if row["by"] == by else row["by"], row["group"], str(row["num_captions"]), *cells)
        by = row["by"]
    return table


def subjects_table(shares: Sequence[SubjectShare], title: str) -> Table:
    """Frequency of subjects in the captions of the data, of a set's initial pairs, and nearest to its texts."""
    table = plain_table(f"{title}; *: the data's share is outside the 95 % interval")
    for name in ("subject", "data", "start", "nearest captions", "95 % interval"):
        table.add_column(name, justify="left" if name == "subject" else "right")
    for share in shares:
        low, high = (100 * end for end in share.interval)
        start = "–" if share.start is None else f"{100 * share.start:.1f}"
        cells = [f"{100 * share.data:.1f}", start, f"{100 * share.kept:.1f}", f"{low:.1f} to {high:.1f}"]
        table.add_row(share.name + (" *" if share.differs else ""), *cells, style="bold" if share.differs else None)
    return table


def result_table(result: StudyOutcome) -> Table:
    """Test results of a finished study, with random pairs and the full data."""
    tested = result.test
    low, high = tested.interval
    full = tested.full_data_mean_recall
    table = plain_table(f"{result.study}: mean recall on test (%)")
    for name in ("trained on", "mean recall", "95 % interval", "share of full data"):
        table.add_column(name, justify="left" if name == "trained on" else "right")
    rows = [
        (f"distilled pairs ({tested.sets_and_students})", tested.mean_recall, f"{low:.2f} to {high:.2f}"),
        ("as many random pairs", tested.random_mean_recall, ""),
        ("the full data", full, ""),
    ]
    for name, recall, interval in rows:
        share = f"{100 * recall / full:.0f} %" if full > 0 else "–"
        table.add_row(name, f"{recall:.2f}", interval, share, style="bold" if name == rows[0][0] else None)
    return table


def finalists_table(result: StudyOutcome) -> Table:
    """Recalls of the finalists in the search, and of their points with new seeds."""
    table = plain_table("Finalists, by mean recall on validation of sets with new seeds (%)")
    for name in ("trial", "mean", "95 % interval", "sets", "failed", "in the search"):
        table.add_column(name, justify="left" if name == "trial" else "right")
    for row in sorted(result.finalists, key=lambda row: row.val_mean_recall, reverse=True):
        chosen = row.trial_id == result.best.trial_id
        low, high = row.val_interval
        cells = [row.trial_id + (" *" if chosen else ""), f"{row.val_mean_recall:.2f}", f"{low:.2f} to {high:.2f}"]
        cells += [str(len(row.sets)), str(row.num_failed)]
        table.add_row(*cells, f"{row.search_val_mean_recall:.2f}", style="bold" if chosen else None)
    return table


def trust_of(result: StudyOutcome) -> str:
    """One line about the basis of a study's result: interval, sets, students and test evaluations."""
    tested, looks = result.test, result.test_evaluations
    low, high = tested.interval
    times = "once" if looks == 1 else f"{looks} times"
    return (
        f"{tested.mean_recall:.2f} on test, 95 % interval {low:.2f} to {high:.2f} over {tested.interval_over}, "
        f"{tested.sets_and_students}, protocol {result.protocol}; test evaluated {times}"
    )


def importance_line(importance: Mapping[str, float], most: int = 3) -> str:
    """The settings that explain most of the variance of recall, by functional ANOVA; empty if unknown."""
    shares = sorted(importance.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{key.rpartition('.')[2]} {100 * share:.0f} %" for key, share in shares[:most])


def comparison_table(results: Sequence[StudyOutcome]) -> Table:
    """Several finished studies, best test recall first; ``n`` is distilled sets × students of each."""
    table = plain_table("Finished studies, by mean recall on test (%); n: sets × students")
    columns = ("study", "protocol", "pairs", "trials", "val", "test", "95 % interval", "n", "random", "full", "share")
    for name in columns:
        table.add_column(name, justify="left" if name in ("study", "protocol") else "right")
    for place, result in enumerate(sorted(results, key=lambda row: row.test.mean_recall, reverse=True)):
        tested = result.test
        low, high = tested.interval
        cells = [
            result.study + (" *" if place == 0 else ""),
            result.protocol,
            str(result.num_pairs),
            str(sum(result.trials.values())),
            f"{result.best.val_mean_recall:.2f}",
            f"{tested.mean_recall:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{tested.num_sets} × {tested.num_students}",
            f"{tested.random_mean_recall:.2f}",
            f"{tested.full_data_mean_recall:.2f}",
            f"{100 * tested.share_of_full_data:.0f} %",
        ]
        table.add_row(*map(Text, cells), style="bold" if place == 0 else None)
    return table


def mean_and_interval(values: Sequence[float]) -> str:
    """``17.3±0.4``, with half of the 95 % interval of the mean; without it for a single value."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    low, high = recall_interval(values)
    return f"{np.mean(values):.1f}±{(high - low) / 2:.1f}"


def share_of(students: Sequence[RetrievalMetrics], bound: Sequence[RetrievalMetrics]) -> str:
    """``82 %``: the students' mean recall as a fraction of the full-data bound."""
    mean, full = (float(np.mean([student.mean_recall for student in group])) for group in (students, bound))
    return f"{100 * mean / full:.0f} %" if full > 0 else "–"


def plain_table(title: str) -> Table:
    """An empty table with the layout of all tables, without lines and with the title on the left."""
    return PlainTable(title)


def _short(value: SettingValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value_as_text(value)
