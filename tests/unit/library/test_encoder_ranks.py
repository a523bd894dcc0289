"""Rank correlation of encoders against answers that are computed by hand."""

import numpy as np
import pytest

from rayvldd.config.study import Study
from rayvldd.library.encoder_ranks import critical_value, encoder_ranks, spearman
from rayvldd.library.set_groups import GroupScores, SetGroup
from rayvldd.records.set_scores import ALL_PAIRS


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5], 1 - 6 * 2 / (6 * 35)),
        ([1, 1, 2], [1, 2, 3], 0.75**0.5),
        ([1, 1, 1], [1, 2, 3], 0.0),
    ],
)
def test_spearman(first: list[float], second: list[float], expected: float) -> None:
    assert spearman(first, second) == pytest.approx(expected)


def test_critical_values_are_those_of_the_tables() -> None:
    """Zar's table of one-sided 5 % values: 0.829 for six, 0.714 for seven; none for three."""
    assert critical_value(6) == pytest.approx(0.829, abs=5e-4)
    assert critical_value(7) == pytest.approx(0.714, abs=5e-4)
    assert critical_value(3) == 1.0
    assert critical_value(17) == pytest.approx(0.411, abs=5e-4)


def group(study: Study, encoder: str, base: str = "base") -> SetGroup:
    return SetGroup(study, encoder, base, {})


class Found:
    """Ranks of a student whose mean recall is given."""

    def __init__(self, value: float) -> None:
        self.mean_recall = value

    def recalls(self) -> "Found":
        return self


def scores(by_row: dict[str, float]) -> GroupScores:
    ranks = {name: [Found(value), Found(value)] for name, value in by_row.items()}
    return GroupScores(ranks, {}, {}, np.zeros(0, dtype=np.int64))  # type: ignore[arg-type]


def test_each_training_set_is_compared_with_all_pairs(tiny_study: Study) -> None:
    order = {"a": (1.0, 30.0), "b": (2.0, 20.0), "c": (3.0, 10.0), "d": (4.0, 40.0)}
    scored = {
        group(tiny_study, name): scores({"set": one, "other": -one, ALL_PAIRS: bound})
        for name, (one, bound) in order.items()
    }
    (found,) = encoder_ranks(scored)
    expected = spearman([1, 2, 3, 4], [30, 20, 10, 40])
    assert {row.trained_on: row.mean for row in found.scores} == pytest.approx({"set": expected, "other": -expected})
    assert all(row.num_students == 2 for row in found.scores)
    assert "of 4 encoders" in found.title and found.notes[0].endswith("fewer than 6 encoders say little")
    fewer = dict(list(scored.items())[:2])
    assert encoder_ranks(fewer) == []
    without = {group(tiny_study, name): scores({"set": 1.0}) for name in "abc"}
    assert encoder_ranks(without) == []
