"""Copies from the host to a device for which the host does not wait."""

from collections.abc import Iterable

import torch
from jaxtyping import Shaped
from torch import Tensor

from rayvldd.models.parameters import Parameters


def to_device(values: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Return the values on a device; they are themselves if they are there.

    From the host they are copied through page-locked memory, which a GPU reads by itself. With other memory the driver
    may wait for all earlier work of the GPU before it copies.
    """
    return page_locked(values, device).to(device, non_blocking=True)


def page_locked(values: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Return the values in page-locked memory if they are to be copied from the host to another device."""
    if values.device.type == "cpu" and device.type != "cpu":
        return values.pin_memory()
    return values


def parameters_to_device(sides: Iterable[Tensor], device: torch.device) -> Parameters:
    """Return the parameters of a student on a device."""
    return Parameters(*(to_device(side, device) for side in sides))
