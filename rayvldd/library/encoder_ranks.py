"""Rank correlation of encoders: whether a set orders encoders as all pairs do, as in a search for an architecture."""

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING

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
        recalls: dict[str, dict[str, float]] = {}
        students: dict[str, int] = {}
        for group, scores in groups.items():
            for name, of_row in scores.recalls.items():
                recalls.setdefault(name, {})[group.encoder] = mean_recall_of(of_row)
                students[name] = len(of_row)
        bound = recalls.pop(ALL_PAIRS, {})
        rows = []
        for name, by_encoder in recalls.items():
            common = [encoder for encoder in by_encoder if encoder in bound]
            if len(common) >= _FEWEST:
                value = spearman([by_encoder[one] for one in common], [bound[one] for one in common])
                rows.append((name, value))
        if not rows:
            continue
        number = len(bound)
        correlations = [
            ProbeScore(
                trained_on=name,
                probe="encoders",
                metric=RANK_CORRELATION.name,
                num_students=students[name],
                mean=value,
            )
            for name, value in rows
        ]
        conditions = next(iter(groups)).measured_on
        title = f"Rank correlation (Spearman) of {number} encoders' mean recalls with those of all pairs"
        note = f"a random order of {number} encoders reaches {critical_value(number):.2f} in 5 % of cases"
        notes = [note + ("" if number >= _ENOUGH else f"; fewer than {_ENOUGH} encoders say little")]
        about = {"encoders": ", ".join(bound)}
        found.append(
            FurtherScores(
                evaluation="encoder_ranks",
                title=title,
                about={**about},
                scores=correlations,
                notes=notes,
                **dict(conditions),
            )
        )
    return found


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; ties have their mean rank. 0 if all values of one side are equal."""
    one, other = _ranks(first), _ranks(second)
    middle = (len(one) - 1) / 2
    products = sum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    squares = math.prod(sum((rank - middle) ** 2 for rank in ranks) for ranks in (one, other))
    return products / math.sqrt(squares) if squares else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def critical_value(number: int) -> float:
    """The smallest correlation that at most 5 % of random orders reach, one-sided; 1 if there is none below.

    Exact for up to seven; above, by the normal approximation with variance 1 / (n - 1).
    """
    if number > _MOST_PERMUTED:
        return min(1.0, 1.6449 / math.sqrt(number - 1))
    reference = list(range(number))
    values = sorted((spearman(reference, order) for order in permutations(reference)), reverse=True)
    most = len(values) // 20
    reached = {value: sum(other >= value - 1e-9 for other in values) for value in set(values)}
    return min((value for value, count in reached.items() if count <= most), default=1.0)
