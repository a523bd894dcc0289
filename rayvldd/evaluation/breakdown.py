"""What is lost: recall by the length of captions and by what they name, and which subjects a distilled set keeps.

A small set cannot hold everything. Whether it loses long captions, rare subjects or one gender sooner than the rest is
what the mean recall hides, and what Wu et al. leave open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from rayvldd.evaluation.caption_nouns import naming, naming_gender, nouns, word_sets, words_of
from rayvldd.evaluation.intervals import share_interval
from rayvldd.evaluation.recall import RetrievalRanks

_MOST_NOUNS = 20
"""Nouns that are shown: the frequent ones."""
_FEWEST_CAPTIONS = 20
"""Captions below which a recall says nothing: one of them would be 5 points."""


@dataclass(frozen=True)
class CaptionGroup:
    """Captions of a split that have something in common."""

    name: str
    chosen: Bool[np.ndarray, " caption"]

    @property
    def num_captions(self) -> int:
        """Captions in the group."""
        return int(self.chosen.sum())

    def recall(self, students: Sequence[RetrievalRanks]) -> float:
        """Mean over students of R@1, R@5 and R@10 of these captions as queries for their image, in percent.

        The pool stays whole: only the queries are chosen.
        """
        places = np.stack([ranks.text_to_image[self.chosen] for ranks in students])
        return float(np.mean([100 * (places <= k).mean() for k in (1, 5, 10)]))


def groups_by_length(captions: Sequence[str]) -> list[CaptionGroup]:
    """Four groups by the number of words, as equal as whole numbers allow; fewer where few lengths occur."""
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
    """Captions by whom they name: women or girls, men or boys, both, or nobody of either."""
    return [CaptionGroup(name, chosen) for name, chosen in naming_gender(word_sets(captions)).items()]


def groups_by_noun(captions: Sequence[str]) -> list[CaptionGroup]:
    """Captions by the frequent nouns they name, the most frequent first; one caption may stand in several groups."""
    words = word_sets(captions)
    groups = [CaptionGroup(noun, naming(words, forms)) for noun, forms in nouns().items()]
    frequent = [group for group in groups if group.num_captions >= _FEWEST_CAPTIONS]
    return sorted(frequent, key=lambda group: -group.num_captions)[:_MOST_NOUNS]


@dataclass(frozen=True)
class SubjectShare:
    """How often a subject is named among the captions of the data and among those nearest a set's texts."""

    name: str
    data: float
    """Share of the data's captions, 0 to 1."""
    start: float | None
    """Share of the captions that the set started from; None where it started from noise."""
    kept: float
    """Share of the captions nearest the set's texts."""
    interval: tuple[float, float]
    """95 % interval (Wilson) of ``kept``, as if the nearest captions were drawn at random."""

    @property
    def differs(self) -> bool:
        """Whether the data's share lies outside the interval. Of 24 subjects, one will by chance alone."""
        return not self.interval[0] <= self.data <= self.interval[1]


def subject_shares(data: Sequence[str], start: Sequence[str], nearest: Sequence[str]) -> list[SubjectShare]:
    """Compare what captions name: by gender first, then by the data's frequent nouns.

    Args:
        data: Captions of the training split.
        start: Captions that a set started from; empty strings where it was noise.
        nearest: The training caption nearest each of its texts.
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
