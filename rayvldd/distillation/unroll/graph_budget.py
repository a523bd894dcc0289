"""How many of a student's last steps may keep their graphs, by the memory that one graph takes."""

import os
from pathlib import Path

import psutil
import torch
from torch import Tensor

from rayvldd.distillation.unroll.batches import Batch
from rayvldd.distillation.unroll.student_step import StudentStep
from rayvldd.models.parameters import Parameters

_SHARE_OF_FREE = 0.5
"""Of what is free when a run begins: trials beside it want theirs."""


class GraphBudget:
    """A budget in bytes and, once a step has been seen, what a step's graph takes of it."""

    def __init__(self, budget_gb: float | None, device: torch.device) -> None:
        """With no budget given, take half of what is free now."""
        self._budget = _SHARE_OF_FREE * free_bytes(device) if budget_gb is None else budget_gb * 1e9
        self._bytes_of_graph: int | None = None

    def graphs_to_keep(self, step: StudentStep, start: Parameters, batch: Batch, seed: int, steps: int) -> int:
        """How many of ``steps`` last steps keep their graphs, 1 at least: the way back begins with the last one.

        The first call takes a step to see what its graph keeps.
        """
        if not step.keeps_graphs:
            return 0
        if self._budget <= 0:
            return 1
        if self._bytes_of_graph is None:
            self._bytes_of_graph = bytes_of_graph(step, start, batch, seed)
        return max(1, min(steps, int(self._budget // max(1, self._bytes_of_graph))))


def bytes_of_graph(step: StudentStep, start: Parameters, batch: Batch, seed: int) -> int:
    """Bytes that the graph of one step keeps, each block of memory counted once; weights and inputs included."""
    blocks: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        blocks[storage.data_ptr()] = storage.nbytes()
        return value.detach()  # the graph's own tensors would hold themselves

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        taken = step.take(start, batch, seed)
    del taken
    return sum(blocks.values())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device; on a CPU what the machine or the process's control group has left."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(psutil.virtual_memory().available, _left_in_control_group())


def _left_in_control_group() -> int:
    """What a container's limit leaves (cgroup v2); the operating system's own numbers do not know of it."""
    root = Path("/sys/fs/cgroup")
    try:
        return int((root / "memory.max").read_text()) - int((root / "memory.current").read_text())
    except (OSError, ValueError):  # no limit: the file is not there or says "max"
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
