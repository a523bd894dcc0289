"""How far each parameter tensor of an expert moves in an epoch, and the shortcut trajectory that these norms define.

Source: PTM-ST (arXiv 2603.25388). With n(p) the norm of a tensor's change from epoch p to p + 1,

    beta(t) = sum of n(p) for p < t / sum of n(p) for p < K,    shortcut(t) = (1 - beta(t)) start + beta(t) end

so two snapshots and one number for each tensor and epoch are all that matching reads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.models.parameters import ParameterLayout, Parameters


class Layouts(NamedTuple):
    """Layout of the flat parameters of each side."""

    image: ParameterLayout
    text: ParameterLayout


class Movement(NamedTuple):
    """Norm of the change of each tensor in one epoch, in the order of the layouts."""

    image: tuple[float, ...]
    text: tuple[float, ...]

    def norms(self) -> tuple[float, float]:
        """Return the norm of the change of each whole side."""
        image, text = (sum(norm**2 for norm in side) ** 0.5 for side in self)
        return image, text


def movement_between(before: Parameters, after: Parameters, layouts: Layouts) -> Movement:
    """Return the movement between two epochs."""
    sides = []
    for old, new, layout in zip(before, after, layouts, strict=True):
        parts = (new.double() - old.double()).split(layout.sizes)
        sides.append(tuple(float(part.norm()) for part in parts))
    return Movement(*sides)


def shortcut_at(
    epoch: int, ends: tuple[Parameters, Parameters], movements: Sequence[Movement], layouts: Layouts
) -> Parameters:
    """Return the parameters of the shortcut trajectory after an epoch.

    Args:
        epoch: From 0, the start, to the number of ``movements``, the end.
        ends: Parameters at the start and at the end.
        movements: Of every epoch from the start to the end.
        layouts: Tensors of both sides.
    """
    sides = [
        _between(start, end, layout, _shares([each[side] for each in movements], epoch))
        for side, (start, end, layout) in enumerate(zip(*ends, layouts, strict=True))
    ]
    return Parameters(*sides)


def _shares(norms: Sequence[Sequence[float]], epoch: int) -> list[float]:
    """Return beta of each tensor; one that does not move has the share of epochs."""
    totals, parts = (
        [sum(column) for column in zip(*rows, strict=True)] for rows in (norms, [*norms[:epoch], [0.0] * len(norms[0])])
    )
    return [part / total if total else epoch / len(norms) for part, total in zip(parts, totals, strict=True)]


def _between(
    start: Float[Tensor, " param"], end: Float[Tensor, " param"], layout: ParameterLayout, shares: Sequence[float]
) -> Float[Tensor, " param"]:
    sizes = torch.tensor(layout.sizes, device=start.device)
    share = torch.repeat_interleave(torch.tensor(shares, dtype=start.dtype, device=start.device), sizes)
    return start + share * (end - start)
