"""Read scalars from a device."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def read_scalars(scalars: Mapping[str, Float[Tensor, ""]]) -> dict[str, float]:
    """Return scalars as numbers, in one transfer for each device and type: the host waits at every transfer.

    Args:
        scalars: Tensors without dimensions, by name.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, value in scalars.items():
        groups.setdefault((value.device, value.dtype), []).append(name)
    numbers: dict[str, float] = {}
    for names in groups.values():
        values = torch.stack([scalars[name].detach() for name in names])
        numbers |= dict(zip(names, values.cpu().tolist(), strict=True))
    return {name: numbers[name] for name in scalars}
