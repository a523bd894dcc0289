"""Outer optimisers, which update the synthetic set.

Source: SGD with momentum, Wu et al. (0.5) and later work; ``normalised_sgd`` and ``adam`` are ours, so that the same
rate suits tasks whose gradients differ by orders of magnitude: the published rates span a factor of 50.
The arithmetic is that of ``torch.optim``.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Tensors = dict[str, Float[Tensor, "..."]]

_NORMALISED = 1e-3
"""Root mean square of gradients in ``normalised_sgd``, and factor on the rate in ``adam``: at a rate of 1000, both
change a number by about 1 per step."""


@runtime_checkable  # for runtime type checks of signatures in tests
class OuterOptimiser(Protocol):
    """Updates tensors along their negative gradients, and keeps its own state."""

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

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.state: Tensors = {}

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Update ``values`` in place; see ``OuterOptimiser``."""
        groups = _groups(values, gradients, rates)
        _step(torch.optim.SGD(groups, lr=0.0, momentum=self.momentum), list(gradients), self.state)


class NormalisedSgd(Sgd):
    """SGD with momentum on gradients that are first scaled to a root mean square of 1e-3, separately per tensor."""

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Update ``values`` in place; see ``OuterOptimiser``. A zero gradient stays zero."""
        super().step(values, {name: _normalised(gradient) for name, gradient in gradients.items()}, rates)


class Adam:
    """Adam with the rates divided by 1000, so that rates for SGD are suitable; beta1 is the momentum."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.state: Tensors = {}

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Update ``values`` in place; see ``OuterOptimiser``."""
        groups = _groups(values, gradients, {name: _NORMALISED * rates[name] for name in gradients})
        _step(torch.optim.Adam(groups, lr=0.0, betas=(self.momentum, 0.999)), list(gradients), self.state)


OUTER_OPTIMISERS: dict[str, Callable[[float], OuterOptimiser]] = {
    "sgd": Sgd,
    "normalised_sgd": NormalisedSgd,
    "adam": Adam,
}
"""Optimisers by their names in ``distillation.outer_optimiser``; the constructor takes the momentum."""


def _normalised(gradient: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    size = gradient.square().mean().sqrt()
    return gradient * (_NORMALISED / size.clamp(min=torch.finfo(size.dtype).tiny))


def _groups(values: Tensors, gradients: Tensors, rates: dict[str, float]) -> list[dict[str, list[Tensor] | float]]:
    """Build one torch parameter group per tensor, as views, so that only the numbers of the caller's tensors change."""
    groups: list[dict[str, list[Tensor] | float]] = []
    for name, gradient in gradients.items():
        moved = values[name].detach()
        moved.grad = gradient.detach()
        groups.append({"params": [moved], "lr": rates[name]})
    return groups


def _step(optimiser: torch.optim.Optimizer, names: list[str], state: Tensors) -> None:
    """Run one step of a new torch optimiser with ``state``, and update ``state``."""
    moved = [group["params"][0] for group in optimiser.param_groups]
    for name, value in zip(names, moved, strict=True):
        own_state = {key.rpartition(".")[2]: kept for key, kept in state.items() if key.rpartition(".")[0] == name}
        optimiser.state[value] = own_state
    optimiser.step()
    for name, value in zip(names, moved, strict=True):
        state |= {f"{name}.{key}": kept for key, kept in optimiser.state[value].items() if kept is not None}
