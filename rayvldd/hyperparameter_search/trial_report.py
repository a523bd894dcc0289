"""Messages from a trial's process to the driver: one for each evaluation, or one about a failure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvaluationReport:
    """One evaluation of a trial."""

    outer_step: int
    metrics: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)
    """Peak memory of the trial so far; not reproducible."""


@dataclass(frozen=True)
class FailureReport:
    """The reason why a trial failed, in one line."""

    reason: str


@dataclass(frozen=True)
class OutageReport:
    """Why a trial cannot go on for now, in one line. The point is not the cause."""

    reason: str


Report = EvaluationReport | FailureReport | OutageReport
Reporter = Callable[[Report], None]
"""Sends a report to the driver; raises SystemExit if the trial must stop."""
