"""Exponential moving average (EMA) of the synthetic set over outer steps, which is less noisy than the set itself.

Source: PTM-ST, which evaluates an EMA with decay 0.99. Ours has the bias correction of Adam's moments: after t updates
the values have the weights (1 - decay) decay^(t-i) / (1 - decay^t), and the initial set has weight 0. Without the
correction the initial set would keep 37 % of the weight after 100 steps, and most trials of a search are shorter.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Tensors = dict[str, Float[Tensor, "..."]]

_WEIGHT = "weight"


class MovingAverage:
    """Exponential moving averages of tensors by name."""

    def __init__(self, decay: float) -> None:
        """Create an empty average; a decay of 0 keeps only the last values."""
        self.decay = decay
        self.state: Tensors = {}
        """Weighted sums by name, and their ``weight``, for checkpoints: assign a saved state to resume. The tensors are
        updated in place, so clone them to keep a state."""

    def update(self, values: Tensors) -> None:
        """Add the values after an outer step; the names must be the same in every call."""
        if not self.state:
            self.state = {name: torch.zeros_like(value) for name, value in values.items()}
            self.state[_WEIGHT] = torch.zeros((), dtype=torch.float64)
        for name, value in values.items():
            self.state[name].mul_(self.decay).add_(value.detach(), alpha=1 - self.decay)
        self.state[_WEIGHT].mul_(self.decay).add_(1 - self.decay)

    @property
    def values(self) -> Tensors:
        """Return the averages as new tensors; empty before the first update."""
        return {name: total / float(self.state[_WEIGHT]) for name, total in self.state.items() if name != _WEIGHT}
