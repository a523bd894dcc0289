"""How the synthetic set follows its gradient.

Source: SGD with momentum, Wu et al. (0.5) and everyone after; ``normalised_sgd`` and ``adam`` are ours, so that one
rate serves problems whose gradients differ by orders of magnitude: the published rates span a factor of 50.
The arithmetic is that of ``torch.optim``.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Tensors = dict[str, Float[Tensor, "..."]]

_NORMALISED = 1e-3
"""Root mean square that ``normalised_sgd`` gives a gradient, and share of the rate that ``adam`` takes: at a rate of
1000, with either, a number moves by about 1 a step."""


@runtime_checkable  # so that signatures that name it can be checked while testing
class OuterOptimiser(Protocol):
    """Moves tensors against their gradients and remembers what it needs for that."""

    state: Tensors
    """All that decides further steps, for checkpoints: assign what was read from one to go on from there. Empty before
    the first step; its tensors are live, so whoever goes back to them later keeps clones."""

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Move ``values`` in place.

        Args:
            values: Tensors by name, always the same names.
            gradients: Of some or all of them; values without one stay.
            rates: One for each gradient.
        """


class Sgd:
    """SGD with momentum: v <- momentum v + g, x <- x - rate v."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.state: Tensors = {}

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Move ``values`` in place; see ``OuterOptimiser``."""
        groups = _groups(values, gradients, rates)
        _step(torch.optim.SGD(groups, lr=0.0, momentum=self.momentum), list(gradients), self.state)


class NormalisedSgd(Sgd):
    """SGD with momentum on gradients that are first brought to a root mean square of 1e-3, each tensor by itself."""

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Move ``values`` in place; see ``OuterOptimiser``. A gradient of zeros stays one."""
        super().step(values, {name: _normalised(gradient) for name, gradient in gradients.items()}, rates)


class Adam:
    """Adam at a thousandth of the rates, so that rates fit for SGD are about right; beta1 is the momentum."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.state: Tensors = {}

    def step(self, values: Tensors, gradients: Tensors, rates: dict[str, float]) -> None:
        """Move ``values`` in place; see ``OuterOptimiser``."""
        groups = _groups(values, gradients, {name: _NORMALISED * rates[name] for name in gradients})
        _step(torch.optim.Adam(groups, lr=0.0, betas=(self.momentum, 0.999)), list(gradients), self.state)


OUTER_OPTIMISERS: dict[str, Callable[[float], OuterOptimiser]] = {
    "sgd": Sgd,
    "normalised_sgd": NormalisedSgd,
    "adam": Adam,
}
"""By their names in ``distillation.outer_optimiser``; each is made from the momentum."""


def _normalised(gradient: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    size = gradient.square().mean().sqrt()
    return gradient * (_NORMALISED / size.clamp(min=torch.finfo(size.dtype).tiny))


def _groups(values: Tensors, gradients: Tensors, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Parameter groups of torch, one a tensor; views, so that nothing of the caller's but the numbers is touched."""
    groups = []
    for name, gradient in gradients.items():
        moved = values[name].detach()
        moved.grad = gradient.detach()
        groups.append({"params": [moved], "lr": rates[name]})
    return groups


def _step(optimiser: torch.optim.Optimizer, names: list[str], state: Tensors) -> None:
    """One step of a fresh optimiser that takes ``state`` over and leaves it updated."""
    moved = [group["params"][0] for group in optimiser.param_groups]
    for name, value in zip(names, moved, strict=True):
        known = {key.rpartition(".")[2]: kept for key, kept in state.items() if key.rpartition(".")[0] == name}
        optimiser.state[value] = known
    optimiser.step()
    for name, value in zip(names, moved, strict=True):
        state |= {f"{name}.{key}": kept for key, kept in optimiser.state[value].items() if kept is not None}
