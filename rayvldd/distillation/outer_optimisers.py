"""Outer optimisers, which update the synthetic set.

Source: SGD with momentum, Wu et al. (0.5) and later work; ``normalised_sgd`` and ``adam`` are ours, so that the same
rate suits tasks whose gradients differ by orders of magnitude: the published rates span a factor of 50.
The arithmetic is that of ``torch.optim``.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.training.optimiser_steps import adam_step, sgd_step

Tensors = dict[str, Float[Tensor, "..."]]

_NORMALISED = 1e-3
"""Root mean square of gradients in ``normalised_sgd``, and factor on the rate in ``adam``: at a rate of 1000, both
change a number by about 1 per step."""
LAST_RATE = 0.05
"""Factor on the outer rates after ``decay_over`` steps. At 0 a run that goes on would no longer move."""


@runtime_checkable  # for runtime type checks of signatures in tests
class OuterOptimiser(Protocol):
    """Updates tensors along their negative gradients, and keeps its own state."""

    by_size: bool
    """Whether its steps grow with the gradient."""
    state: Tensors
    """Complete state for checkpoints: assign a saved state to resume. Empty before the first step. The tensors are
    updated in place, so clone them to keep a state."""

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Update ``values`` in place.

        Args:
            values: Tensors by name; the names must be the same in every call.
            gradients: Gradients of some or all values; values without a gradient do not change.
            rates: Learning rate of each gradient.
        """


class Sgd:
    """SGD with momentum: v <- momentum v + g, x <- x - rate v."""

    by_size = True

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.state: Tensors = {}

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Update ``values`` in place; see ``OuterOptimiser``."""
        for name, gradient in gradients.items():
            key = f"{name}.momentum_buffer"
            velocity = sgd_step(
                values[name].detach(), gradient.detach(), self.state.get(key), rates[name], self.momentum
            )
            if velocity is not None:
                self.state[key] = velocity


class NormalisedSgd(Sgd):
    """SGD with momentum on gradients that are first scaled to a root mean square of 1e-3, separately per tensor."""

    by_size = False

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Update ``values`` in place; see ``OuterOptimiser``. A zero gradient stays zero."""
        super().step(values, {name: _normalised(gradient) for name, gradient in gradients.items()}, rates)


class Adam:
    """Adam with the rates divided by 1000, so that rates for SGD are suitable; beta1 is the momentum."""

    by_size = False

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.state: Tensors = {}

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Update ``values`` in place; see ``OuterOptimiser``."""
        for name, gradient in gradients.items():
            own_state = {key.rpartition(".")[2]: kept for key, kept in self.state.items() if _value_of(key) == name}
            adam_step(
                values[name].detach(), gradient.detach(), own_state, _NORMALISED * rates[name], beta1=self.momentum
            )
            self.state |= {f"{name}.{key}": kept for key, kept in own_state.items()}


OUTER_OPTIMISERS: dict[str, Callable[[float], OuterOptimiser]] = {
    "sgd": Sgd,
    "scaled_sgd": Sgd,  # its rates are scaled where they are known, see rate_factors
    "normalised_sgd": NormalisedSgd,
    "adam": Adam,
}
"""Optimisers by their names in ``distillation.outer_optimiser``; the constructor takes the momentum."""


def outer_rate_factor(outer_step: int, decay_over: int | None) -> float:
    """Return the factor on the outer rates after a number of outer steps: half a cosine from 1 to ``LAST_RATE``.

    Source: cosine annealing (Loshchilov and Hutter, arXiv 1608.03983), without restarts and not to zero.

    Args:
        outer_step: Number of steps taken so far.
        decay_over: Steps over which it falls; None: 1 throughout.
    """
    if decay_over is None:
        return 1.0
    share = min(outer_step / decay_over, 1.0)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2


def _normalised(gradient: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    size = gradient.square().mean().sqrt()
    return gradient * (_NORMALISED / size.clamp(min=torch.finfo(size.dtype).tiny))


def _value_of(key: str) -> str:
    """Return the name of the value that a tensor of a state belongs to."""
    return key.rpartition(".")[0]
