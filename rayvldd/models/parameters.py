"""Parameters of one side of the model as one flat vector: what is stored, matched and stepped."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Parameters(NamedTuple):
    """The trained parameters of both sides, flat: one student at one moment."""

    image: Float[Tensor, " image_param"]
    text: Float[Tensor, " text_param"]


@dataclass(frozen=True)
class ParameterLayout:
    """Names and shapes of the trained parameters of a module, in the order of the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> "ParameterLayout":
        """The layout of what requires a gradient in ``module``."""
        trained = [(name, tuple(value.shape)) for name, value in module.named_parameters() if value.requires_grad]
        return cls(tuple(name for name, _ in trained), tuple(shape for _, shape in trained))

    @property
    def sizes(self) -> list[int]:
        """Numbers in each parameter."""
        return [prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Numbers in the flat vector."""
        return sum(self.sizes)

    def flatten(self, module: nn.Module) -> Float[Tensor, " param"]:
        """Copy the trained parameters of ``module`` into a new flat vector.

        A copy, never a view: snapshots that alias live weights all end up equal to the last one.
        """
        values = dict(module.named_parameters())
        return torch.cat([values[name].detach().reshape(-1) for name in self.names])

    def unflatten(self, flat: Float[Tensor, " param"]) -> dict[str, Tensor]:
        """View the flat vector as named parameters; gradients flow back through one concatenation."""
        parts = flat.split(self.sizes)  # one split: slicing would pad a full-length gradient for every parameter
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}
