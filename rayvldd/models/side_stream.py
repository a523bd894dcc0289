"""Reads of a background thread that a GPU copies on a stream of its own, beside the computation."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from rayvldd.background import Take

Rows = TypeVar("Rows", bound=tuple[Tensor | None, ...])
"""Tensors of a batch, e.g. a named tuple of them."""


class SideStream:
    """A stream of a GPU for what a background thread reads; on other devices the reads alone are in the background.

    The stream of the computation waits for the copies of a batch when it is taken, the host never. The memory of a
    batch belongs to the side stream, whose next batch would overwrite it: it is kept until the computation is done
    with it.
    """

    def __init__(self, device: torch.device) -> None:
        """Create the stream."""
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def follow(self) -> None:
        """Begin after all that the device was asked for so far, such as the copy of an array."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def begun(self, begin: Callable[[Take[Rows]], Take[Rows]], read: Take[Rows]) -> Take[Rows]:
        """Begin a read in the background and return how to take its rows.

        Args:
            begin: Begins a function in the background, see :func:`rayvldd.background.reading`.
            read: Returns the rows on the device.
        """
        stream = self._stream
        if stream is None:
            return begin(read)
        copied = torch.cuda.Event()

        def on_stream() -> Rows:
            with torch.cuda.stream(stream):
                rows = read()
                copied.record(stream)
            return rows

        taken = begin(on_stream)

        def take() -> Rows:
            rows, computing = taken(), torch.cuda.current_stream(self._device)
            computing.wait_event(copied)
            for part in rows:
                if part is not None:
                    part.record_stream(computing)
            return rows

        return take
