"""Rank correlation of encoders: whether a set orders encoders as all pairs do, as in a search for an architecture."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from rayvldd.config.metrics import RANK_CORRELATION
from rayvldd.library.scoring import mean_recall_of
from rayvldd.records.set_scores import ALL_PAIRS, FurtherScores, ProbeScore

if TYPE_CHECKING:
    from rayvldd.library.set_groups import GroupScores, SetGroup

_FEWEST = 3
"""Fewest encoders with a rank correlation."""
_ENOUGH = 6
"""Encoders below which a correlation is noted to say little."""
_MOST_PERMUTED = 7
"""Up to this many encoders, all orders are counted for the critical value."""


def encoder_ranks(scored: "Mapping[SetGroup, GroupScores]") -> list[FurtherScores]:
    """The rank correlation of the encoders' mean recalls for each training set, by common base.

    Bases with fewer than three encoders, or without models of all pairs, have none.
    """
    found = []
    for base in dict.fromkeys(group.base for group in scored):
        groups = {group: scores for group, scores in scored.items() if group.base == base}
        correlations, encoders = _correlations(groups)
        if not correlations:
            continue
        number = len(encoders)
        note = f"a random order of {number} encoders reaches {critical_value(number):.2f} in 5 % of cases"
        found.append(
            FurtherScores(
                evaluation="encoder_ranks",
                title=f"Rank correlation (Spearman) of {number} encoders' mean recalls with those of all pairs",
                about={"encoders": ", ".join(encoders)},
                scores=correlations,
                notes=[note + ("" if number >= _ENOUGH else f"; fewer than {_ENOUGH} encoders say little")],
                **dict(next(iter(groups)).measured_on),
            )
        )
    return found


def _correlations(groups: "Mapping[SetGroup, GroupScores]") -> tuple[list[ProbeScore], list[str]]:
    """The rank correlation of each training set, and the encoders with models of all pairs."""
    recalls: dict[str, dict[str, float]] = {}
    students: dict[str, int] = {}
    for group, scores in groups.items():
        for name, of_row in scores.recalls.items():
            recalls.setdefault(name, {})[group.encoder] = mean_recall_of(of_row)
            students[name] = len(of_row)
    bound = recalls.pop(ALL_PAIRS, {})
    correlations = []
    for name, by_encoder in recalls.items():
        common = [encoder for encoder in by_encoder if encoder in bound]
        if len(common) >= _FEWEST:
            value = spearman([by_encoder[one] for one in common], [bound[one] for one in common])
            correlations.append(
                ProbeScore(
                    trained_on=name,
                    probe="encoders",
                    metric=RANK_CORRELATION.name,
                    num_students=students[name],
                    mean=value,
                )
            )
    return correlations, list(bound)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; ties have their mean rank. 0 if all values of one side are equal."""
    from scipy.stats import spearmanr  # takes a second to import, and few commands need it

    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return float(spearmanr(first, second).statistic)


def critical_value(number: int) -> float:
    """The smallest correlation that at most 5 % of random orders reach, one-sided; 1 if there is none below.

    Exact for up to seven; above, by the normal approximation with variance 1 / (n - 1).
    """
    if number > _MOST_PERMUTED:
        return min(1.0, 1.6449 / math.sqrt(number - 1))
    orders = np.array(list(permutations(range(number))))
    distances = ((orders - np.arange(number)) ** 2).sum(1)
    values, counts = np.unique(distances, return_counts=True)  # of small distances first, which correlate most
    rare = np.cumsum(counts) <= len(orders) // 20
    if not rare.any():
        return 1.0
    return float(1 - 6 * values[rare][-1] / (number * (number**2 - 1)))
