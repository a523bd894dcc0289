"""Break down recall by caption length and subject, and compare the subjects of a distilled set with the data.

A small set cannot represent everything. Mean recall does not show whether it loses long captions, rare subjects or one
gender more than others, and Wu et al. leave this question open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from rayvldd.evaluation.caption_nouns import naming, naming_gender, nouns, word_sets, words_of
from rayvldd.evaluation.intervals import share_interval
from rayvldd.evaluation.recall import RetrievalRanks

_MOST_NOUNS = 20
"""Maximum number of nouns in the breakdown, the most frequent first."""
_FEWEST_CAPTIONS = 20
"""Minimum captions of a group: with fewer, one caption would change the recall by more than 5 points."""


@dataclass(frozen=True)
class CaptionGroup:
    """Captions of a split with a common property."""

    name: str
    chosen: Bool[np.ndarray, " caption"]

    @property
    def num_captions(self) -> int:
        """Number of captions in the group."""
        return int(self.chosen.sum())

    def recall(self, students: Sequence[RetrievalRanks]) -> float:
        """Return the mean over students of R@1, R@5 and R@10 of these captions as queries for their image, in percent.

        The pool is the whole split; only the queries are restricted.
        """
        places = np.stack([ranks.text_to_image[self.chosen] for ranks in students])
        return float(np.mean([100 * (places <= k).mean() for k in (1, 5, 10)]))


def groups_by_length(captions: Sequence[str]) -> list[CaptionGroup]:
    """Group captions into quarters by the number of words; fewer groups if few lengths occur."""
    lengths = np.array([len(words_of(caption)) for caption in captions])
    quartiles = np.quantile(lengths, [0.25, 0.5, 0.75], method="inverted_cdf")
    ends = sorted({*(int(end) for end in quartiles), int(lengths.max())})
    groups, start = [], int(lengths.min())
    for end in ends:
        name = f"{start} to {end} words" if start < end else f"{end} words"
        groups.append(CaptionGroup(name, (lengths >= start) & (lengths <= end)))
        start = end + 1
    return groups


def groups_by_gender(captions: Sequence[str]) -> list[CaptionGroup]:
    """Group captions by gender: women or girls, men or boys, both, or neither."""
    return [CaptionGroup(name, chosen) for name, chosen in naming_gender(word_sets(captions)).items()]


def groups_by_noun(captions: Sequence[str]) -> list[CaptionGroup]:
    """Group captions by frequent nouns, the most frequent first; a caption may belong to several groups."""
    words = word_sets(captions)
    groups = [CaptionGroup(noun, naming(words, forms)) for noun, forms in nouns().items()]
    frequent = [group for group in groups if group.num_captions >= _FEWEST_CAPTIONS]
    return sorted(frequent, key=lambda group: -group.num_captions)[:_MOST_NOUNS]


@dataclass(frozen=True)
class SubjectShare:
    """Frequency of a subject in the captions of the data and in the captions nearest to the texts of a set."""

    name: str
    data: float
    """Share of the data's captions, 0 to 1."""
    start: float | None
    """Share of the initial captions of the set; None if it started from noise."""
    kept: float
    """Share of the captions nearest to the texts of the set."""
    interval: tuple[float, float]
    """95 % interval (Wilson) of ``kept``, as if the nearest captions were drawn at random."""

    @property
    def differs(self) -> bool:
        """Whether the data's share is outside the interval; expect this by chance for 1 of about 20 subjects."""
        return not self.interval[0] <= self.data <= self.interval[1]


def subject_shares(data: Sequence[str], start: Sequence[str], nearest: Sequence[str]) -> list[SubjectShare]:
    """Compare subject frequencies, first of genders, then of the frequent nouns of the data.

    Args:
        data: Captions of the training split.
        start: Initial captions of the set; empty strings if it started from noise.
        nearest: Training caption nearest to each text of the set.
    """
    words = [word_sets(captions) for captions in (data, start, nearest)]
    by_gender = [naming_gender(of_captions) for of_captions in words]
    shares = [_share(name, *(masks[name] for masks in by_gender)) for name in by_gender[0]]
    by_noun = [
        _share(group.name, *(naming(of_captions, nouns()[group.name]) for of_captions in words))
        for group in groups_by_noun(data)
    ]
    return shares + by_noun if any(start) else [replace(share, start=None) for share in shares + by_noun]


def _share(
    name: str,
    data: Bool[np.ndarray, " caption"],
    start: Bool[np.ndarray, " pair"],
    nearest: Bool[np.ndarray, " pair"],
) -> SubjectShare:
    kept = int(nearest.sum())
    interval = share_interval(kept, len(nearest))
    return SubjectShare(name, float(data.mean()), float(start.mean()), kept / len(nearest), interval)
