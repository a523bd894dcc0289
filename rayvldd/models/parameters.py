"""Flat parameter vectors of the image and text side, which are stored, matched and updated."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Parameters(NamedTuple):
    """Flat trained parameters of both sides of a student."""

    image: Float[Tensor, " image_param"]
    text: Float[Tensor, " text_param"]


@dataclass(frozen=True)
class ParameterLayout:
    """Names and shapes of the trained parameters of a module, in the order of the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> "ParameterLayout":
        """Return the layout of the parameters of ``module`` that require a gradient."""
        trained = [(name, tuple(value.shape)) for name, value in module.named_parameters() if value.requires_grad]
        return cls(tuple(name for name, _ in trained), tuple(shape for _, shape in trained))

    @property
    def sizes(self) -> list[int]:
        """Number of values in each parameter."""
        return [prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """Number of values in the flat vector."""
        return sum(self.sizes)

    def flatten(self, module: nn.Module) -> Float[Tensor, " param"]:
        """Copy the trained parameters of ``module`` into a new flat vector.

        The vector is a copy, not a view: snapshots that share memory with the weights would all equal the last one.
        """
        values = dict(module.named_parameters())
        return torch.cat([values[name].detach().reshape(-1) for name in self.names])

    def unflatten(self, flat: Float[Tensor, " param"]) -> dict[str, Tensor]:
        """Return views of the flat vector as named parameters; their gradients are joined by one concatenation."""
        parts = flat.split(self.sizes)  # one split: slicing would pad a full-length gradient for every parameter
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}
