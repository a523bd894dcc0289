"""Merge two experts that share their start into one model.

Source: the teachers of MDM (arXiv 2605.23482), after Model Stock (arXiv 2403.19522). For each parameter tensor with
changes d1 and d2 from the common start,

    c = cos(d1, d2) in [0, 1],    r = 2 c / (1 + c),    merged = start + scale r (d1 + d2) / 2

so tensors that the experts move in different directions stay near the start. Models that began differently must not be
merged: their hidden units correspond to nothing in each other.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.experts.movement import Layouts
from rayvldd.models.parameters import ParameterLayout, Parameters


def merged(start: Parameters, experts: tuple[Parameters, Parameters], layouts: Layouts, scale: float) -> Parameters:
    """Return the merged parameters.

    Args:
        start: Initial parameters of both experts.
        experts: A snapshot of each.
        layouts: Tensors of both sides.
        scale: Factor on the merged change.
    """
    sides = (
        _merged_side(before, first, second, layout, scale)
        for before, first, second, layout in zip(start, *experts, layouts, strict=True)
    )
    return Parameters(*sides)


def _merged_side(
    start: Float[Tensor, " param"],
    first: Float[Tensor, " param"],
    second: Float[Tensor, " param"],
    layout: ParameterLayout,
    scale: float,
) -> Float[Tensor, " param"]:
    parts = []
    for one, other in zip((first - start).split(layout.sizes), (second - start).split(layout.sizes), strict=True):
        cosine = torch.nn.functional.cosine_similarity(one, other, dim=0).clamp(0, 1)  # 0 for a tensor that stays
        parts.append(scale * (2 * cosine / (1 + cosine)) * (one + other) / 2)
    return start + torch.cat(parts)
