"""The contract of metrics."""

import math
from pathlib import Path

from rayvldd.evaluation.metric import Metric
from rayvldd.testing.toy import toy_study, toy_task


def check_metric(metric: Metric, folder: Path) -> None:
    """Check that a metric returns the declared numbers, finite and reproducible, and changes nothing.

    Args:
        metric: The metric.
        folder: Empty folder for the cache.

    Raises:
        AssertionError: if the contract is violated.
    """
    names = [info.name for info in metric.infos]
    assert names and len(set(names)) == len(names), f"declared names must exist and be distinct, got {names}"
    assert all(info.direction in ("max", "min") for info in metric.infos), "a direction is max or min"
    study = toy_study()
    task, experts = toy_task(study, folder / "cache")
    student = experts[0][2]
    before = [side.clone() for side in student]
    for inputs in (task.val, task.test):
        first, again = metric(task, student, inputs), metric(task, student, inputs)
        assert set(first) == set(names), f"returned {sorted(first)}, declared {sorted(names)}"
        assert first == again, "the same student has other numbers the second time"
        assert all(math.isfinite(value) for value in first.values()), f"not finite: {first}"
    assert all(bool((a == b).all()) for a, b in zip(before, student, strict=True)), "the parameters were changed"
