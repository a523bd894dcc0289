"""Storage of the student's parameters after every step, for the backward sweep.

The sweep reads parameters alone. The velocity of a student with momentum is stored only where steps are taken again.
For small models activations dominate the memory; for a large encoder these vectors do, S + 1 of them for S steps. All
storages return bitwise the same parameters that were stored.
"""

import math
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rayvldd.models.parameters import Parameters


class StudentState(NamedTuple):
    """Start of the next step of a student."""

    parameters: Parameters
    velocity: Parameters | None = None
    """Velocity of SGD with momentum; None without momentum, and before the first step."""


Advance = Callable[[int, StudentState], StudentState]
"""Takes step i from the given state."""


@runtime_checkable
class ParameterCheckpoints(Protocol):
    """Parameters at the start of every step, stored in order and read in reverse order."""

    def put(self, step: int, state: StudentState) -> None:
        """Store the parameters at the start of ``step``."""

    def get(self, step: int) -> Parameters:
        """Return the parameters at the start of ``step``; later steps are not read again."""

    def close(self) -> None:
        """Release the storage."""


def build_checkpoints(kind: str, steps: range, device: torch.device, advance: Advance) -> ParameterCheckpoints:
    """Create the storage of the parameters of an unrolled student.

    Args:
        kind: A value of ``EngineSettings.parameter_checkpoints``.
        steps: The steps whose parameters are stored.
        device: Device of the parameters.
        advance: Computes the parameters after a step again, for ``recompute``.
    """
    if kind == "offload":
        return CheckpointsInFile() if device.type == "cpu" else CheckpointsInHostMemory()
    return RecomputedCheckpoints(steps, advance) if kind == "recompute" else CheckpointsInMemory()


class CheckpointsInMemory:
    """Keeps all parameters on the device."""

    def __init__(self) -> None:
        self._states: dict[int, Parameters] = {}

    def put(self, step: int, state: StudentState) -> None:
        """Store the parameters at the start of ``step``."""
        self._states[step] = state.parameters

    def get(self, step: int) -> Parameters:
        """Return the parameters at the start of ``step``."""
        return self._states.pop(step)

    def close(self) -> None:
        """Release the parameters."""
        self._states.clear()


class RecomputedCheckpoints:
    """Keeps one in about sqrt(steps) parameters, and recomputes the others segment by segment.

    Needs memory for about 2 sqrt(steps) parameters, and at most one additional gradient per step.
    """

    def __init__(self, steps: range, advance: Advance) -> None:
        self._first, self._every, self._advance = steps.start, max(1, math.isqrt(len(steps))), advance
        self._marks: dict[int, StudentState] = {}
        self._stretch: dict[int, Parameters] = {}

    def put(self, step: int, state: StudentState) -> None:
        """Store the state if ``step`` begins a segment."""
        if (step - self._first) % self._every == 0:
            self._marks[step] = state

    def get(self, step: int) -> Parameters:
        """Return the parameters at the start of ``step``."""
        if step not in self._stretch:
            mark = step - (step - self._first) % self._every
            state = self._marks.pop(mark)
            self._stretch = {mark: state.parameters}
            for earlier in range(mark, step):
                state = self._advance(earlier, state)
                self._stretch[earlier + 1] = state.parameters
        return self._stretch.pop(step)

    def close(self) -> None:
        """Release the parameters."""
        self._marks.clear()
        self._stretch.clear()


class CheckpointsInHostMemory:
    """Keeps parameters in page-locked host memory while the student is on a GPU; copies are asynchronous."""

    def __init__(self) -> None:
        self._states: dict[int, tuple[Tensor, ...]] = {}
        self._device = torch.device("cpu")

    def put(self, step: int, state: StudentState) -> None:
        """Copy the parameters to the host."""
        parameters = state.parameters
        self._device = parameters.image.device
        hosts = tuple(torch.empty(side.shape, dtype=side.dtype, pin_memory=True) for side in parameters)
        self._states[step] = tuple(
            host.copy_(side, non_blocking=True) for host, side in zip(hosts, parameters, strict=True)
        )

    def get(self, step: int) -> Parameters:
        """Copy the parameters back to the GPU."""
        return Parameters(*(side.to(self._device, non_blocking=True) for side in self._states.pop(step)))

    def close(self) -> None:
        """Release the host memory."""
        self._states.clear()


class CheckpointsInFile:
    """Keeps parameters in a temporary file in ``TMPDIR``, deleted when it is closed or the process ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="rayvldd_states_")  # noqa: SIM115 (closed with the object)
        self._places: dict[int, int] = {}
        self._kinds: list[tuple[int, torch.dtype]] = []

    def put(self, step: int, state: StudentState) -> None:
        """Append the parameters to the file."""
        parameters = state.parameters
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
