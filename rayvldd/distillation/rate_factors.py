"""Factors on the outer learning rates by which the first update moves the set by fixed shares of itself.

    factor = share (1 - momentum) / (reference rate * G),    G^2 = mean over draws of (|g| / |x|)^2

for images and texts, with the root mean squares |g| of the gradient and |x| of the value; for the logarithm of the
learned step sizes a, G is the larger |dL/da| / a of both. With momentum m a constant gradient moves a value by
rate * g / (1 - m) in a step. So a rate that equals its reference, the published one, moves the images by
``FIRST_MOVES["images"]`` of their root mean square, whatever the number of pairs, the model and the protocol are.

Source: steps relative to the size of what they change, as in LARS (You et al., arXiv 1708.03888), but measured once,
before the first step, as a learning-rate range test is (Smith, arXiv 1506.01186): later steps shrink with their
gradient, as those of SGD do. The shares are ours, from settings that worked (docs/results.md, Scaled rates).
"""

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from rayvldd.errors import DivergedError

DRAWS = 8
"""Gradients at the start by which the rates are scaled, each of its own segment and batches."""

_SIZES = ("lr_image", "lr_text")

STEP_SIZES = "step_sizes"
"""Name of the factor on the rate of the learned step sizes."""

SCALED_RATES = {"images": "sgd_lr_image", "texts": "sgd_lr_text", STEP_SIZES: "sgd_lr_lr"}
"""Names in logs of the rates of ``sgd`` that equal the scaled ones."""

FIRST_MOVES = {"images": 0.2, "texts": 0.5, STEP_SIZES: 0.2}
"""Share of its root mean square by which the first update moves a value; of step sizes, of the logarithm."""

REFERENCE_RATES = {"images": 1000.0, "texts": 1000.0, STEP_SIZES: 0.01}
"""Rates with these moves: those of Wu et al., the defaults."""


def relative_gradients(gradients: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the sizes of gradients relative to their values, by the names of factors.

    Args:
        gradients: Gradients by name of the values and step sizes; those without a factor are ignored.
        values: ``images``, ``texts``, and the step sizes.
    """
    found = {
        name: float((gradient.square().mean() / values[name].square().mean()).sqrt())
        for name, gradient in gradients.items()
        if name in FIRST_MOVES
    }
    # SyntheticSet.descend() changes log a by -rate * g / a.
    sizes = [float((gradient / values[name]).abs()) for name, gradient in gradients.items() if name in _SIZES]
    return found | ({STEP_SIZES: max(sizes)} if sizes else {})


def factors_of(draws: list[dict[str, float]], momentum: float) -> dict[str, float]:
    """Return the factors on the rates, by name.

    Args:
        draws: Relative gradients of each draw.
        momentum: That of the outer optimiser.

    Raises:
        DivergedError: if a gradient is not finite, or is zero in all draws.
    """
    sizes = {name: math.sqrt(float(np.mean([draw[name] ** 2 for draw in draws]))) for name in draws[0]}
    for name, size in sizes.items():
        if not math.isfinite(size) or not size:
            raise DivergedError(
                f"outer_optimiser scaled_sgd: the gradient of the {name.replace('_', ' ')} at the start is "
                f"{'zero' if size == 0 else 'not finite'}, so their rate cannot be scaled by it",
                next_command="the same command with smaller --set distillation.lr_student_image=… and "
                "distillation.lr_student_text=…, or with --set distillation.outer_optimiser=sgd",
            )
    return {name: FIRST_MOVES[name] * (1 - momentum) / (REFERENCE_RATES[name] * size) for name, size in sizes.items()}
