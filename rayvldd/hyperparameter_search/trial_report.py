"""What a trial's process sends to the driver: one report an evaluation, or one that says why there are no more."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvaluationReport:
    """One evaluation of a trial."""

    outer_step: int
    metrics: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)
    """Peak memory of the trial so far, which no two runs repeat."""


@dataclass(frozen=True)
class FailureReport:
    """Why a trial failed, in one line."""

    reason: str


Report = EvaluationReport | FailureReport
Reporter = Callable[[Report], None]
"""Sends a report to the driver; raises SystemExit where the trial is to stop."""
