"""Arrays of the real data on the device of a task, as far as they fit.

On a GPU, arrays are copied as a whole when they are first read, up to a budget, and batches are gathered there. Rows of
the others are gathered on the host and copied batch by batch. On a CPU all arrays stay memory-mapped.
"""

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from rayvldd.models.copies import page_locked, to_device
from rayvldd.models.device_memory import free_bytes

_SHARE_OF_FREE = 0.25
"""Fraction of the free memory that arrays fill by default; the engine's graphs take half of the rest."""
_ROWS_AT_A_TIME = 4096


class DeviceArrays:
    """Copies of arrays on a device, within a budget."""

    def __init__(self, device: torch.device, budget_gb: float | None = None) -> None:
        """Create the store; the default budget is determined when the first array is read."""
        self._device = device
        self._left = None if budget_gb is None else budget_gb * 1e9
        self._held: dict[int, tuple[np.ndarray, Tensor | None]] = {}

    def rows(
        self, array: Shaped[np.ndarray, "item ..."], index: Shaped[np.ndarray, " row"]
    ) -> Shaped[Tensor, "row ..."]:
        """Return rows of an array, on the device."""
        held = None if self._device.type == "cpu" else self._copy_of(array)
        if held is None:
            return self.gathered(array, index)
        return held[to_device(torch.from_numpy(np.ascontiguousarray(index)), self._device)]

    def stays(self, array: Shaped[np.ndarray, "item ..."]) -> bool:
        """Whether rows of an array need no copy: it is on the device, as far as it fits, or there is only the host."""
        return self._device.type == "cpu" or self._copy_of(array) is not None

    def gathered(
        self, array: Shaped[np.ndarray, "item ..."], index: Shaped[np.ndarray, " row"]
    ) -> Shaped[Tensor, "row ..."]:
        """Return rows of an array that is seldom read: they are gathered on the host, and the array is not copied."""
        return to_device(torch.from_numpy(np.ascontiguousarray(array[index])), self._device)

    def _copy_of(self, array: np.ndarray) -> Tensor | None:
        """Return the copy of an array; None if it does not fit."""
        if id(array) not in self._held:
            self._held[id(array)] = array, self._copied(array)  # with the array: its id is its own while it exists
        return self._held[id(array)][1]

    def _copied(self, array: np.ndarray) -> Tensor | None:
        if self._left is None:
            self._left = _SHARE_OF_FREE * free_bytes(self._device)
        if array.nbytes > self._left:
            return None
        self._left -= array.nbytes
        kind = torch.from_numpy(np.array(array[:1])).dtype
        copy = torch.empty(array.shape, dtype=kind, device=self._device)
        for start in range(0, len(array), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            copy[part].copy_(page_locked(torch.from_numpy(np.array(array[part])), self._device), non_blocking=True)
        return copy
