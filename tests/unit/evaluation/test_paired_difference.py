"""Differences of mean recall on the same queries: against known answers, a bootstrap and a simulation."""

import numpy as np
import pytest
from scipy import stats

from rayvldd.evaluation.paired_difference import difference_of_scores, paired_difference, scores_of_images
from rayvldd.evaluation.recall import RetrievalRanks

UNEVEN = np.array([0, 0, 0, 1, 2, 2])
"""Three images with three, one and two captions."""


def ranks_of(seed: int, caption_image: np.ndarray = UNEVEN) -> RetrievalRanks:
    drawn = np.random.default_rng(seed)
    images = int(caption_image.max()) + 1
    return RetrievalRanks(drawn.integers(1, 20, size=images), drawn.integers(1, 20, size=len(caption_image)))


@pytest.mark.parametrize("seed", range(4))
def test_the_scores_of_images_have_the_mean_recall_as_their_mean(seed: int) -> None:
    ranks = ranks_of(seed)
    assert scores_of_images(ranks, UNEVEN).mean() == pytest.approx(ranks.recalls().mean_recall)


def test_the_scores_of_images_by_hand() -> None:
    ranks = RetrievalRanks(np.array([1, 7]), np.array([1, 11, 5, 6]))
    # Image 0 and one of its captions are found at 1, 5, 10; image 1 at 10, its captions at 5 and 10, and at 10.
    assert scores_of_images(ranks, np.array([0, 0, 1, 1])) == pytest.approx(
        [100 * (3 + 1.5) / 6, 100 * (1 + 0 + 0.5 + 1) / 6]
    )


def test_with_two_equal_constant_sides_it_is_zero_without_width() -> None:
    same = [[ranks_of(0)], [ranks_of(0)], [ranks_of(0)]]
    found = paired_difference(same, same, UNEVEN)
    assert found.mean == 0 and found.interval == (0, 0) and not found.is_better and not found.is_worse


def test_without_variation_between_sets_it_is_the_paired_t_interval() -> None:
    first, second = np.random.default_rng(0).normal(30, 20, size=(2, 40))
    found = difference_of_scores(np.stack([first] * 3), np.stack([second] * 5))
    usual = stats.ttest_rel(first, second).confidence_interval()
    assert found.interval == pytest.approx((usual.low, usual.high)) and found.mean == pytest.approx(
        (first - second).mean()
    )


def test_without_variation_between_images_it_is_welchs_interval() -> None:
    first, second = [20.0, 23.0, 21.0], [14.0, 15.0, 13.0, 16.0, 12.0]
    columns = [np.repeat(np.array(means)[:, None], 50, axis=1) for means in (first, second)]
    found = difference_of_scores(columns[0], columns[1])
    usual = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert found.interval == pytest.approx((usual.low, usual.high)) and found.is_better


def test_the_students_of_a_single_set_are_its_units() -> None:
    students, flat = [ranks_of(seed) for seed in range(3)], [ranks_of(seed) for seed in range(10, 14)]
    others = [[ranks] for ranks in flat]
    scores = [np.stack([scores_of_images(ranks, UNEVEN) for ranks in side]) for side in (students, flat)]
    assert paired_difference([students], others, UNEVEN) == difference_of_scores(scores[0], scores[1])


def test_few_sets_have_no_interval_and_recall_stays_possible() -> None:
    two = [[ranks_of(0)], [ranks_of(1)]]
    assert paired_difference(two, two, UNEVEN).interval is None
    extremes = np.array([[100.0, 0.0, 100.0]] * 3)
    low, high = difference_of_scores(extremes, 100 - extremes).interval or (0, 0)
    assert -100 <= low < 100 / 3 < high <= 100


def drawn_scores(draw: np.random.Generator, images: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Scores of three and of five sets with a common difficulty of images; the true difference is 5."""
    difficulty = draw.normal(0, 25, size=images)
    sides = [
        mean + difficulty + draw.normal(0, 10, size=images) + draw.normal(0, 2, size=(sets, 1))
        + draw.normal(0, 12, size=(sets, images))
        for mean, sets in ((35, 3), (30, 5))
    ]  # fmt: skip
    return sides[0], sides[1]


def test_the_interval_holds_the_true_difference_as_often_as_promised() -> None:
    draw = np.random.default_rng(1)
    found = [difference_of_scores(*drawn_scores(draw)).interval or (0, 0) for _ in range(2000)]
    inside = np.mean([low < 5 < high for low, high in found])
    assert 0.945 < inside < 0.985, "the interaction of sets and images is counted twice, so it is a little too wide"


def test_pairing_narrows_the_interval_by_the_difficulty_of_the_images() -> None:
    first, second = drawn_scores(np.random.default_rng(2))
    paired = difference_of_scores(first, second).interval or (0, 0)
    unpaired = difference_of_scores(first, np.random.default_rng(3).permutation(second, axis=1)).interval or (0, 0)
    assert paired[1] - paired[0] < 0.7 * (unpaired[1] - unpaired[0])


def test_its_width_is_that_of_a_bootstrap_over_images_and_sets() -> None:
    """With many sets, where a bootstrap of the sets is right (Owen, 2007: images and sets are drawn separately)."""
    draw = np.random.default_rng(4)
    difficulty = draw.normal(0, 25, size=80)
    first, second = (
        difficulty + draw.normal(0, 10, size=80) + draw.normal(0, 4, size=(30, 1)) + draw.normal(0, 12, size=(30, 80))
        for _ in range(2)
    )

    def one() -> float:
        images, sets, others = (draw.integers(count, size=count) for count in (80, 30, 30))
        return float(first[np.ix_(sets, images)].mean() - second[np.ix_(others, images)].mean())

    low, high = difference_of_scores(first, second).interval or (0, 0)
    boundaries = np.quantile([one() for _ in range(2000)], [0.025, 0.975])
    assert (low, high) == pytest.approx(boundaries, abs=0.12 * (high - low))
