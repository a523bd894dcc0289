"""Determine how many of a student's last steps can keep their graphs, from the memory of one graph."""

import torch
from torch import Tensor

from rayvldd.distillation.unroll.batches import Batch
from rayvldd.distillation.unroll.student_step import StudentStep
from rayvldd.models.device_memory import free_bytes
from rayvldd.models.parameters import Parameters

_SHARE_OF_FREE = 0.5
"""Fraction of the free memory at the start of a run, because parallel trials need memory as well."""


class GraphBudget:
    """Budget in bytes and, after the first measurement, the size of a step's graph."""

    def __init__(self, budget_gb: float | None, device: torch.device) -> None:
        """Set the budget; by default half of the memory that is free now."""
        self._budget = _SHARE_OF_FREE * free_bytes(device) if budget_gb is None else budget_gb * 1e9
        self._bytes_of_graph: int | None = None

    def graphs_to_keep(self, step: StudentStep, start: Parameters, batch: Batch, seed: int, steps: int) -> int:
        """Return how many of the last ``steps`` keep their graphs; at least 1, where the backward sweep begins.

        The first call takes one step to measure its graph.
        """
        if not step.keeps_graphs:
            return 0
        if self._budget <= 0:
            return 1
        if self._bytes_of_graph is None:
            self._bytes_of_graph = bytes_of_graph(step, start, batch, seed)
        return max(1, min(steps, int(self._budget // max(1, self._bytes_of_graph))))


def bytes_of_graph(step: StudentStep, start: Parameters, batch: Batch, seed: int) -> int:
    """Return the bytes held by the graph of one step, each storage counted once, including weights and inputs.

    Args:
        step: The student's step.
        start: Parameters before the step.
        batch: Inputs of the step.
        seed: Seed of the step's dropout and augmentation.
    """
    blocks: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        blocks[storage.data_ptr()] = storage.nbytes()
        return value.detach()  # the graph would hold a reference to itself

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        taken = step.take(start, batch, seed)
    del taken
    return sum(blocks.values())
