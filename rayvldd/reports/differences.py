"""Differences of mean recall: a sentence, and a table."""

from collections.abc import Sequence

from rayvldd.records.difference import Difference
from rayvldd.records.set_scores import SetDifference
from rayvldd.reports.table import Cell, Table, numbers, texts


def sentence_of_difference(first: str, second: str, difference: Difference, split: str) -> str:
    """Say whether one training set is better than another, e.g. ``80 distilled pairs are better than …: +6.1 points``.

    Args:
        first: The training set, a plural.
        second: The other one.
        difference: The first minus the second.
        split: Split whose images both were scored on.
    """
    measured = f"{difference.words} of mean recall on the same {split} images"
    if difference.is_better:
        return f"{first} are better than {second}: {measured}"
    if difference.is_worse:
        return f"{first} are worse than {second}: {measured}"
    if difference.interval is None:
        return f"{first} and {second}: {measured}; fewer than three sets or students are too few to say which is better"
    return f"{first} are not shown to be better or worse than {second}: {measured}"


def differences_table(differences: Sequence[SetDifference], title: str) -> Table:
    """Distilled sets minus real pairs, in points of mean recall."""
    rows: list[list[Cell]] = [
        [row.distilled_set, row.coreset, row.mean, row.ends or "too few to say", _verdict(row)] for row in differences
    ]
    columns = [*texts("distilled set", "minus"), *numbers("points", number="{:+.1f}"), *texts("95 % interval", "it is")]
    better = frozenset(place for place, row in enumerate(differences) if row.is_better)
    return Table(columns, rows, f"{title}; interval over images, sets and students", "differences", better)


def _verdict(difference: Difference) -> str:
    if difference.is_better or difference.is_worse:
        return "better" if difference.is_better else "worse"
    return "not shown"
