"""Steps of torch's SGD and Adam, without their classes.

The first optimiser object of a process makes torch import its compiler, which takes two to three seconds of CPU in each
process of a trial. The functions behind ``torch.optim.SGD`` and ``torch.optim.Adam`` compute the same numbers, bit for
bit, and import nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd


@torch.no_grad()
def sgd_step(
    value: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    velocity: Float[Tensor, "*shape"] | None,
    rate: float,
    momentum: float,
    weight_decay: float = 0.0,
) -> Float[Tensor, "*shape"] | None:
    """Take a step of ``torch.optim.SGD``: v <- momentum v + g + weight_decay x, x <- x - rate v.

    Args:
        value: Updated in place.
        gradient: Gradient of the value; not changed.
        velocity: The previous one, updated in place; None at the first step.
        rate: Learning rate.
        momentum: Factor on the previous velocity.
        weight_decay: Factor of the value in the gradient.

    Returns:
        The velocity for the next step; None without momentum.
    """
    velocities = [velocity]
    sgd(
        [value],
        [gradient],
        velocities,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=rate,
        dampening=0.0,
        nesterov=False,
        maximize=False,
    )
    return velocities[0]


@torch.no_grad()
def adam_step(
    value: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    state: dict[str, Float[Tensor, "..."]],
    rate: float,
    beta1: float,
) -> None:
    """Take a step of ``torch.optim.Adam`` with beta2 0.999 and epsilon 1e-8.

    Args:
        value: Updated in place.
        gradient: Gradient of the value; not changed.
        state: ``step``, ``exp_avg`` and ``exp_avg_sq``, updated in place; filled in where it is empty.
        rate: Learning rate.
        beta1: Decay of the mean of the gradients.
    """
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(value, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(value, memory_format=torch.preserve_format)
    adam(
        [value],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        amsgrad=False,
        beta1=beta1,
        beta2=0.999,
        lr=rate,
        weight_decay=0.0,
        eps=1e-8,
        maximize=False,
    )
