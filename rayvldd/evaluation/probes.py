"""Probes of students: a metric on other inputs than the split that the students are scored on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rayvldd.config.metrics import MetricInfo
from rayvldd.evaluation.metric import Metric
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs


@dataclass(frozen=True, eq=False)
class Probe:
    """A metric and its inputs; it is sent to the processes that train the students."""

    name: str
    """Name of the inputs in tables, e.g. ``JPEG 75``."""
    metric: Metric
    inputs: SplitInputs
    identity: str
    """Hash of the metric and everything that determines its inputs, apart from the task."""

    @property
    def infos(self) -> Sequence[MetricInfo]:
        """The numbers of the metric."""
        return self.metric.infos

    def __call__(self, task: RetrievalTask, parameters: Parameters) -> dict[str, float]:
        """Return the numbers of a student by their names."""
        return self.metric(task, parameters, self.inputs)


def in_memory(inputs: SplitInputs) -> SplitInputs:
    """The same inputs with plain arrays, which Ray shares between processes, and without the pixels of the split."""
    split = replace(inputs.split, pixels=np.zeros((0, *inputs.split.pixels.shape[1:]), dtype=np.uint8))
    return SplitInputs(split, np.asarray(inputs.images), np.asarray(inputs.caption_embeddings))
