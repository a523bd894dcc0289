"""Recall against the number of pairs: the points of a study, and the rows of its table."""

from collections.abc import Sequence

from pydantic import ValidationError

from rayvldd.config.domains import SettingValue
from rayvldd.config.setting import setting_at
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault
from rayvldd.records.form import words_of
from rayvldd.records.set_scores import EvaluatedCoreset, EvaluatedSet

_BATCH = "distillation.trajectory_matching.batch_size"
DISTILLED = "distilled"
"""Name of the column of distilled sets."""


def at_pairs(point: Study, numbers: Sequence[int]) -> dict[int, Study]:
    """The point with each number of pairs, in rising order.

    A batch of trajectory matching that is larger than the set has all pairs.

    Raises:
        ConfigError: if other settings of the point do not allow a number.
    """
    batch = setting_at(point.model_dump(mode="json"), _BATCH)
    points = {}
    for number in sorted(set(numbers)):
        values: dict[str, SettingValue] = {"distillation.num_pairs": number}
        if isinstance(batch, int) and batch > number:
            values[_BATCH] = None
        try:
            points[number] = point.at(values)
        except ValidationError as error:
            fault = Fault(f"--pairs {number}", words_of(error), "numbers that fit the other settings")
            raise ConfigError([fault], next_command="the same command with other --pairs") from None
    return points


def by_pairs(
    sets: Sequence[EvaluatedSet], coresets: Sequence[EvaluatedCoreset]
) -> dict[int, dict[str, EvaluatedSet | EvaluatedCoreset]]:
    """The rows of an evaluation by number of pairs, then by method of the coreset or ``distilled``."""
    found: dict[int, dict[str, EvaluatedSet | EvaluatedCoreset]] = {}
    for row in sets:
        found.setdefault(row.num_pairs, {})[DISTILLED] = row
    for one in coresets:
        found.setdefault(one.num_pairs, {})[one.method] = one
    return dict(sorted(found.items()))
