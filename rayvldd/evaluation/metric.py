"""Metrics of a trained student: the protocol and the registry.

Searches compare by recall, which is always computed (:mod:`rayvldd.evaluation.recall`). Further metrics are listed in
``evaluation.further_metrics`` and computed on the same students. Other packages register metrics as entry points of the
group ``rayvldd.metrics``, each an object with this protocol.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

import numpy as np

from rayvldd.config.metrics import MEAN_RECALL, RECALLS, MetricInfo
from rayvldd.errors import ConfigError, Fault, did_you_mean
from rayvldd.evaluation.scoring import score
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs

GROUP = "rayvldd.metrics"
"""Entry points of this group name :class:`Metric` objects."""


@runtime_checkable  # for runtime type checks of signatures in tests
class Metric(Protocol):
    """Computes numbers of one student on one split."""

    infos: Sequence[MetricInfo]
    """Name, unit, direction and label of each number."""

    def __call__(self, task: RetrievalTask, parameters: Parameters, inputs: SplitInputs) -> dict[str, float]:
        """Return the numbers by the names of :attr:`infos`.

        Args:
            task: Model and data; the model must not be trained further.
            parameters: Parameters of the student.
            inputs: The split.
        """
        ...


class RetrievalRecall:
    """Recall at 1, 5 and 10 in both directions, and their mean, in percent."""

    infos: Sequence[MetricInfo] = (*RECALLS, MEAN_RECALL)

    def __call__(self, task: RetrievalTask, parameters: Parameters, inputs: SplitInputs) -> dict[str, float]:
        """Return the six recalls and their mean."""
        return score(task, parameters, inputs).as_dict()


_registered: dict[str, Metric] = {}


def register_metric(name: str, metric: Metric) -> None:
    """Register a metric in this process only, for a notebook or a test; packages use an entry point instead."""
    _registered[name] = metric


def metric_names() -> list[str]:
    """Return the names of all metrics."""
    return list(dict.fromkeys(["recall", *_entry_points(), *_registered]))


def metrics_by_name(names: Sequence[str]) -> dict[str, Metric]:
    """Return the named metrics.

    Raises:
        ConfigError: naming every unknown metric.
    """
    allowed = ", ".join(metric_names())
    faults = [
        Fault("evaluation.further_metrics", f"unknown {name!r}{did_you_mean(name, metric_names())}", allowed)
        for name in names
        if name not in metric_names()
    ]
    if faults:
        raise ConfigError(faults, next_command="rayvldd check STUDY.yaml after changing evaluation.further_metrics")
    return {name: _metric(name) for name in names}


def mean_over_students(
    metrics: Mapping[str, Metric], task: RetrievalTask, students: Sequence[Parameters], inputs: SplitInputs
) -> dict[str, float]:
    """Return the mean of every number over students.

    Args:
        metrics: The metrics, by registered name.
        task: Model and data.
        students: Parameters of each student.
        inputs: The split for scoring.
    """
    means: dict[str, float] = {}
    for metric in metrics.values():
        rows = [metric(task, parameters, inputs) for parameters in students]
        means |= {info.name: float(np.mean([row[info.name] for row in rows])) for info in metric.infos}
    return means


def _metric(name: str) -> Metric:
    if name in _registered:
        return _registered[name]
    found: Metric = RetrievalRecall() if name == "recall" else _entry_points()[name].load()
    return found


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
