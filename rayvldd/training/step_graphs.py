"""CUDA graphs of a training step: its loss and its gradient are recorded once and replayed with one launch.

The kernels of a student's step on features take less time than the host needs to launch them. A replay reads and writes
the same addresses and repeats the same kernels, so that a graph is valid for one shape of batches, without dropout, and
for a gradient that is not differentiated again. The update of the parameters is not recorded: its rates change.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rayvldd.errors import message_of

_log = logging.getLogger("rayvldd.training")

_WARM_UP = 3
"""Steps of a shape before it is recorded: libraries choose their kernels and allocate memory at the first ones."""

Losses = Callable[..., Float[Tensor, "..."]]
"""Loss of a batch, or of one batch for each of several models, as a function of the tensors of the batch."""
_Shapes = tuple[tuple[int, ...] | None, ...]
Differentiated = tuple[Tensor, tuple[Tensor | None, ...]]
"""Losses without their graph, and the gradient of their sum by each side; None for a side without influence."""


def total_of(losses: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the sum of the losses of models without common parameters: each gets the gradient of its own loss."""
    return losses if losses.ndim == 0 else losses.sum()


class StepGraphs:
    """Losses and gradients of training steps, by one CUDA graph for each shape of a batch.

    A shape that is rare, such as the last batch of an epoch, is never recorded. A step that cannot be recorded is
    computed as without graphs, with a warning.
    """

    def __init__(self, losses: Losses, sides: Sequence[Float[Tensor, "..."]]) -> None:
        """Create them for parameters on a GPU, which are updated in place: a graph reads them at their addresses."""
        self._losses, self._sides = losses, tuple(sides)
        self._stream = torch.cuda.Stream(self._sides[0].device)
        self._steps: Counter[_Shapes] = Counter()
        self._graphs: dict[_Shapes, _Graph | None] = {}

    def __call__(self, *batch: Shaped[Tensor, "..."] | None) -> Differentiated:
        """Return losses and gradients of a batch; the gradients are valid until the next call."""
        shapes = tuple(None if part is None else tuple(part.shape) for part in batch)
        if shapes not in self._graphs:
            self._steps[shapes] += 1
            if self._steps[shapes] <= _WARM_UP:
                return self._computed_on_stream(batch)
            self._graphs[shapes] = self._recorded(batch)
        graph = self._graphs[shapes]
        return self._computed(batch) if graph is None else graph.replayed(batch)

    def _computed(self, batch: Sequence[Tensor | None]) -> Differentiated:
        losses = self._losses(*batch)
        return losses.detach(), torch.autograd.grad(total_of(losses), self._sides, allow_unused=True)

    def _computed_on_stream(self, batch: Sequence[Tensor | None]) -> Differentiated:
        """Compute a step on the stream of the warm-up, since a recording is not possible on the default one either."""
        default = torch.cuda.current_stream(self._sides[0].device)
        self._stream.wait_stream(default)
        with torch.cuda.stream(self._stream):
            found = self._computed(batch)
        default.wait_stream(self._stream)
        return found

    def _recorded(self, batch: Sequence[Tensor | None]) -> "_Graph | None":
        inputs = tuple(None if part is None else part.clone() for part in batch)
        graph = torch.cuda.CUDAGraph()
        try:
            # By thread: the thread that copies the next batch allocates memory meanwhile, which would end a recording.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                losses, gradients = self._computed(inputs)
        except RuntimeError as error:  # an operation of the model reads a number of the device, or torch forbids it
            reason = message_of(error)
            _log.warning("resources.cuda_graphs: a training step cannot be recorded and runs without: %s", reason)
            return None
        return _Graph(graph.replay, inputs, losses, gradients)


@dataclass(frozen=True)
class _Graph:
    """A recorded step with the memory that it reads and writes."""

    replay: Callable[[], None]
    inputs: tuple[Tensor | None, ...]
    losses: Tensor
    gradients: tuple[Tensor | None, ...]

    def replayed(self, batch: Sequence[Tensor | None]) -> Differentiated:
        for place, part in zip(self.inputs, batch, strict=True):
            if place is not None and part is not None:
                place.copy_(part, non_blocking=True)
        self.replay()
        return self.losses.clone(), self.gradients
