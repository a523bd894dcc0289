"""Intervals of mean recalls: Student's in the middle of the scale, possible recalls at its ends."""

import numpy as np
import pytest
from scipy import stats

from rayvldd.evaluation.intervals import recall_interval


def test_the_interval_is_students_on_the_logit_scale() -> None:
    low, high = recall_interval([10.0, 12.0, 14.0])
    half = 4.302652729911275 * 0.02 / np.sqrt(3) / (0.12 * 0.88)  # t for two degrees of freedom, from a printed table
    centre = np.log(0.12 / 0.88)
    assert np.log(low / (100 - low)) == pytest.approx(centre - half)
    assert np.log(high / (100 - high)) == pytest.approx(centre + half)


def test_in_the_middle_it_is_the_usual_interval() -> None:
    recalls = [28.1, 28.9, 28.5, 28.4, 29.0]
    usual = stats.t.interval(0.95, 4, np.mean(recalls), stats.sem(recalls))
    assert recall_interval(recalls) == pytest.approx(usual, abs=0.01)


@pytest.mark.parametrize("recalls", [[0.0, 0.4], [0.0, 100.0], [99.5, 100.0, 100.0], [0.1, 6.0, 0.2]])
def test_no_recall_is_impossible_and_the_mean_is_inside(recalls: list[float]) -> None:
    low, high = recall_interval(recalls)
    assert 0 <= low < np.mean(recalls) < high <= 100


def test_equal_recalls_have_an_interval_of_one_value() -> None:
    assert recall_interval([0.0, 0.0]) == (0, 0) and recall_interval([100.0] * 3) == (100, 100)
    assert recall_interval([40.0] * 3) == pytest.approx((40, 40))


@pytest.mark.parametrize(("mean", "count"), [(20.0, 3), (20.0, 5), (2.0, 5)])
def test_the_promised_share_of_intervals_holds_the_mean(mean: float, count: int) -> None:
    """Recalls that differ by a tenth of their mean, as students of one set do at most."""
    draws = np.random.default_rng(0).normal(mean, 0.1 * mean, size=(2000, count))
    inside = [low < mean < high for low, high in map(recall_interval, draws.tolist())]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
