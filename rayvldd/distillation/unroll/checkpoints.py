"""Where a student's parameters after every step wait for the way back.

Activations are what fills memory with small models; with a large encoder it is these vectors: 33 of them for 32
steps. All three ways give back the very bits that were put in.
"""

import math
import os
import tempfile
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rayvldd.models.parameters import Parameters

Advance = Callable[[int, Parameters], Parameters]
"""Take step i from the given parameters."""


@runtime_checkable
class ParameterCheckpoints(Protocol):
    """The parameters at the start of every step: put in one after the other, asked for in the opposite order."""

    def put(self, step: int, parameters: Parameters) -> None:
        """Keep the parameters that ``step`` starts from."""

    def get(self, step: int) -> Parameters:
        """The parameters that ``step`` starts from; those of later steps are not asked for again."""

    def close(self) -> None:
        """Give back what holds the parameters."""


def build_checkpoints(kind: str, steps: range, device: torch.device, advance: Advance) -> ParameterCheckpoints:
    """Storage for the starts of ``steps``, of one of the kinds of ``EngineSettings.parameter_checkpoints``."""
    if kind == "offload":
        return CheckpointsInFile() if device.type == "cpu" else CheckpointsInHostMemory()
    return RecomputedCheckpoints(steps, advance) if kind == "recompute" else CheckpointsInMemory()


class CheckpointsInMemory:
    """All of them, on the device."""

    def __init__(self) -> None:
        self._states: dict[int, Parameters] = {}

    def put(self, step: int, parameters: Parameters) -> None:
        """Keep the parameters that ``step`` starts from."""
        self._states[step] = parameters

    def get(self, step: int) -> Parameters:
        """The parameters that ``step`` starts from."""
        return self._states.pop(step)

    def close(self) -> None:
        """Forget the parameters."""
        self._states.clear()


class RecomputedCheckpoints:
    """One in about the square root of their number; the others are walked again, a stretch at a time.

    Memory for twice the square root of the steps, for up to one more gradient a step.
    """

    def __init__(self, steps: range, advance: Advance) -> None:
        self._first, self._every, self._advance = steps.start, max(1, math.isqrt(len(steps))), advance
        self._marks: dict[int, Parameters] = {}
        self._stretch: dict[int, Parameters] = {}

    def put(self, step: int, parameters: Parameters) -> None:
        """Keep the parameters if ``step`` begins a stretch."""
        if (step - self._first) % self._every == 0:
            self._marks[step] = parameters

    def get(self, step: int) -> Parameters:
        """The parameters that ``step`` starts from."""
        if step not in self._stretch:
            mark = step - (step - self._first) % self._every
            self._stretch = {mark: self._marks.pop(mark)}
            for earlier in range(mark, step):
                self._stretch[earlier + 1] = self._advance(earlier, self._stretch[earlier])
        return self._stretch.pop(step)

    def close(self) -> None:
        """Forget the parameters."""
        self._marks.clear()
        self._stretch.clear()


class CheckpointsInHostMemory:
    """In page-locked host memory while the student is on a GPU; the copies wait for nothing."""

    def __init__(self) -> None:
        self._states: dict[int, tuple[Tensor, ...]] = {}
        self._device = torch.device("cpu")

    def put(self, step: int, parameters: Parameters) -> None:
        """Copy the parameters to the host."""
        self._device = parameters.image.device
        hosts = tuple(torch.empty(side.shape, dtype=side.dtype, pin_memory=True) for side in parameters)
        self._states[step] = tuple(
            host.copy_(side, non_blocking=True) for host, side in zip(hosts, parameters, strict=True)
        )

    def get(self, step: int) -> Parameters:
        """Copy the parameters back to the GPU."""
        return Parameters(*(side.to(self._device, non_blocking=True) for side in self._states.pop(step)))

    def close(self) -> None:
        """Give the host's memory back."""
        self._states.clear()


class CheckpointsInFile:
    """In a temporary file, which is gone when it is closed or the process ends; ``TMPDIR`` says where."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="rayvldd_states_")  # noqa: SIM115 (closed with the object)
        self._places: dict[int, int] = {}
        self._kinds: list[tuple[int, torch.dtype]] = []

    def put(self, step: int, parameters: Parameters) -> None:
        """Append the parameters to the file."""
        self._places[step] = self._file.seek(0, os.SEEK_END)
        self._kinds = [(side.numel(), side.dtype) for side in parameters]
        for side in parameters:
            self._file.write(side.detach().contiguous().numpy().data.cast("B"))

    def get(self, step: int) -> Parameters:
        """Read the parameters back."""
        self._file.seek(self._places.pop(step))
        sides = [torch.empty(size, dtype=dtype) for size, dtype in self._kinds]
        for side in sides:
            self._file.readinto(side.numpy().data.cast("B"))
        return Parameters(*sides)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
