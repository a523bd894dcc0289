"""The difference of two mean recalls on the same queries, with an interval over images, sets and students.

Two training sets are tested on the same images, and an image that is difficult for the students of one is difficult
for those of the other. Whether two intervals of single means overlap ignores this, and whether further test images
would show the same. Therefore the hits of both are subtracted image by image, as in paired tests of retrieval systems
(Smucker, Allan and Carterette, CIKM 2007, who find Student's paired t and the bootstrap to agree; Sakai, SIGIR 2006).

The variance of the difference is that of the mean over test images, plus that over the sets (or students) of each
side. Sets are crossed with images, and their interaction is in both terms, so that the sum is too large by it and the
interval a little too wide, as with a bootstrap that draws images and sets (Owen, 2007, *The pigeonhole bootstrap*).
Student's interval has the degrees of freedom of Satterthwaite (1946) and Welch (1947). Deviation: no bootstrap (Efron
and Tibshirani, 1993), since a draw of three sets from three varies by a third too little.

An image is one unit with all its captions, which are not independent. The pool of answers is the same for all: the
interval is that of further queries to this pool.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import special  # not scipy.stats, whose import takes a second of CPU in each process

from rayvldd.evaluation.intervals import FEWEST_VALUES
from rayvldd.evaluation.recall import RetrievalRanks
from rayvldd.records.difference import Difference

_AT = (1, 5, 10)


def paired_difference(
    first: Sequence[Sequence[RetrievalRanks]],
    second: Sequence[Sequence[RetrievalRanks]],
    caption_image: Int[np.ndarray, " caption"],
    confidence: float = 0.95,
) -> Difference:
    """Return by how much the mean recall of one side is above that of the other, in percentage points.

    Args:
        first: Ranks of the students of each set. Sets are the units; if there is one set, its students are.
        second: The same of the other side, on the same queries.
        caption_image: Image that each caption belongs to.
        confidence: Confidence level, between 0 and 1.
    """
    sides = [np.stack([_mean_scores(unit, caption_image) for unit in _units(side)]) for side in (first, second)]
    return difference_of_scores(sides[0], sides[1], confidence)


def difference_of_scores(
    first: Float[np.ndarray, "set image"], second: Float[np.ndarray, "other image"], confidence: float = 0.95
) -> Difference:
    """Return the difference of two means over sets and images, by the scores of each set on each image.

    There is no interval for fewer than three sets on a side, or fewer than three images.
    """
    by_image = first.mean(0) - second.mean(0)
    mean = float(by_image.mean())
    samples = [by_image, first.mean(1), second.mean(1)]
    if min(map(len, samples)) < FEWEST_VALUES:
        return Difference(mean=mean, interval=None)
    variances = np.array([np.var(sample, ddof=1) / len(sample) for sample in samples])
    total = float(variances.sum())
    if total == 0:
        return Difference(mean=mean, interval=(mean, mean))
    freedom = total**2 / sum(part**2 / (len(sample) - 1) for part, sample in zip(variances, samples, strict=True))
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * total**0.5
    return Difference(mean=mean, interval=(max(-100.0, mean - half), min(100.0, mean + half)))


def scores_of_images(ranks: RetrievalRanks, caption_image: Int[np.ndarray, " caption"]) -> Float[np.ndarray, " image"]:
    """Return the part of each image, with its captions, in a mean recall: their mean is the mean recall in percent.

    Images may differ in their number of captions. Recall over captions is then a ratio of two sums over images, and the
    scores are its linearisation, whose variance is that of the delta method.
    """
    num_images = len(ranks.image_to_text)
    counts = np.bincount(caption_image, minlength=num_images)
    by_image = np.zeros(num_images)
    for k in _AT:
        caption_hits = np.bincount(caption_image, weights=ranks.text_to_image <= k, minlength=num_images)
        recall = caption_hits.sum() / counts.sum()
        by_image += (ranks.image_to_text <= k) + recall + (caption_hits - recall * counts) / counts.mean()
    return 100 * by_image / (2 * len(_AT))


def _units(side: Sequence[Sequence[RetrievalRanks]]) -> list[Sequence[RetrievalRanks]]:
    """The sets with their students or, if there is one set, its students."""
    return list(side) if len(side) > 1 else [[student] for student in side[0]]


def _mean_scores(
    students: Sequence[RetrievalRanks], caption_image: Int[np.ndarray, " caption"]
) -> Float[np.ndarray, " image"]:
    scores: Float[np.ndarray, " image"] = np.mean(
        [scores_of_images(ranks, caption_image) for ranks in students], axis=0
    )
    return scores
