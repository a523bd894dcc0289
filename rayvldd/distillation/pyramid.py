"""Images as the sum of a pyramid of levels, which the outer optimiser moves in place of the pixels.

    x = sum over levels r of U_r p_r,    p_r of r x r numbers in each channel, r = 1, 2, 4, ... up to the image size

with U_r bilinear interpolation to the image size. A step of a coarse level moves many pixels together, so low
frequencies move first; plain pixels move each by itself, and their high frequencies fit one encoder.

Source: linear gradient matching (arXiv 2511.16674, NeurIPS 2025) and its released code: the same levels and
interpolation. Deviations: images start at the initial set, which the last level holds, the others being zero. How a
start is divided between levels has no influence, since optimisers see gradients and not values. The source begins with
random coarse levels, adds one at a time, decorrelates the colours and bounds pixels by a sigmoid. Its Adam has one rate
for all levels. Here rates are divided so that in a step no image changes by more than plain pixels could with the same
gradient and rate: by the number of levels, and for plain SGD, whose gradient of a coarse number is a sum over many
pixels, also by the largest weight of that sum, squared for both axes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayvldd.models.copies import to_device

Tensors = dict[str, Float[Tensor, "..."]]


def level_sizes(image_size: int) -> list[int]:
    """Return the sizes of the levels: powers of two below the image size, and the image size."""
    return [*(2**power for power in range((image_size - 1).bit_length())), image_size]


class Pyramid:
    """Levels of images, their sum, and their gradients and rates."""

    def __init__(self, images: Float[Tensor, "pair 3 size size"]) -> None:
        """Begin with levels whose sum is ``images``, bit for bit."""
        self._sizes = level_sizes(images.shape[-1])
        up = {size: interpolation(size, images.shape[-1], images.dtype) for size in self._sizes[:-1]}
        self._reach = {size: float(matrix.sum(0).max()) ** 2 for size, matrix in up.items()}
        self._up = {size: to_device(matrix, images.device) for size, matrix in up.items()}
        self.levels: Tensors = {_name(size): images.new_zeros(*images.shape[:2], size, size) for size in self._sizes}
        """Levels by name. Replaced when a state is restored, updated in place by the optimiser."""
        self.levels[_name(self._sizes[-1])] += images

    def images(self) -> Float[Tensor, "pair 3 size size"]:
        """Return the sum of the levels, as a new tensor."""
        total = self.levels[_name(self._sizes[-1])].clone()
        for size, up in self._up.items():
            total += up @ self.levels[_name(size)] @ up.T
        return total

    def gradients(self, by_images: Float[Tensor, "pair 3 size size"]) -> Tensors:
        """Return the gradient of each level, given that of the images."""
        found = {_name(size): up.T @ by_images @ up for size, up in self._up.items()}
        return {**found, _name(self._sizes[-1]): by_images}

    def rates(self, rate: float, *, by_size: bool) -> dict[str, float]:
        """Return the learning rate of each level.

        Args:
            rate: Learning rate of plain pixels.
            by_size: Whether the optimiser's step grows with the gradient, as that of SGD does.
        """
        rate /= len(self._sizes)
        reach = self._reach if by_size else {}
        return {_name(size): rate / reach.get(size, 1.0) for size in self._sizes}


def interpolation(size: int, image_size: int, dtype: torch.dtype) -> Float[Tensor, "image_size size"]:
    """Return the matrix of linear interpolation from ``size`` to ``image_size`` numbers, on the CPU.

    Products with it and its transpose give the same bits every time on every device; the backward pass of torch's
    bilinear interpolation does not on a GPU.
    """
    unit = torch.eye(size, dtype=dtype)[None]
    return F.interpolate(unit, image_size, mode="linear", align_corners=False)[0].T


def _name(size: int) -> str:
    return f"images_{size}"
