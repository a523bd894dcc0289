"""Scores on further inputs from several evaluations, joined for one table each."""

import json
from collections.abc import Sequence

from rayvldd.records.set_scores import ALL_PAIRS, FurtherScores, ProbeScore


def conditions(found: FurtherScores) -> tuple[str, ...]:
    """Key of scores that were measured under the same conditions."""
    return (*found.measured_on, found.trained_with, found.base)


def joined(scores: Sequence[FurtherScores]) -> list[FurtherScores]:
    """Join scores on the same inputs under the same conditions; of rows that several have, the first is taken."""
    by_inputs: dict[str, FurtherScores] = {}
    for found in scores:
        key = json.dumps([conditions(found), found.evaluation, found.title, found.about])
        before = by_inputs.get(key)
        if before is None:
            by_inputs[key] = found
            continue
        known = {(score.trained_on, score.probe, score.metric) for score in before.scores}
        new = [score for score in found.scores if (score.trained_on, score.probe, score.metric) not in known]
        notes = list(dict.fromkeys([*before.notes, *found.notes]))
        by_inputs[key] = before.model_copy(update={"scores": _ordered([*before.scores, *new]), "notes": notes})
    return list(by_inputs.values())


def _ordered(scores: Sequence[ProbeScore]) -> list[ProbeScore]:
    """Training sets first, then all pairs, then values without students."""
    return sorted(scores, key=lambda score: (score.num_students == 0, score.trained_on == ALL_PAIRS))
