"""Differentiable augmentation of the synthetic images, the same for all images of a step.

Source: DSA (differentiable siamese augmentation), arXiv 2102.08259, with the ranges of its
released ``utils.py``; like there, one kind is drawn from the list in each step, and colours are shifted on the
encoder's normalised scale. Deviations: parameters are plain numbers drawn beforehand from the step's own seed, and
never differ between images, so that any part of a batch can be augmented alone.

Every kind is linear or affine in the pixels and treats each image by itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayvldd.models.copies import to_device

_MOST_SCALE = 1.2
"""Largest scale, and the inverse of the smallest."""
_MOST_ROTATION = 15.0
"""Largest rotation either way, in degrees."""
_MOST_SHIFT = 0.125
"""Largest shift of a crop, in widths and heights of the image."""
_CUTOUT = 0.5
"""Side of the cut-out rectangle, in widths and heights of the image."""

Images = Float[Tensor, "image channel height width"]


@dataclass(frozen=True)
class Augmentation:
    """One kind of augmentation with its parameters, whose meaning depends on the kind."""

    name: str
    parameters: tuple[float, ...]


def draw_augmentation(seed: int, names: Sequence[str]) -> Augmentation:
    """Draw one of ``names`` with equal probability, and its parameters.

    Args:
        seed: Determines the kind and the parameters.
        names: At least one of ``color``, ``crop``, ``cutout``, ``flip``, ``scale`` and ``rotate``.
    """
    generator = torch.Generator().manual_seed(seed)
    name = names[int(torch.randint(len(names), (), generator=generator))]
    first, second, third = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    smallest = 1 / _MOST_SCALE
    parameters: dict[str, tuple[float, ...]] = {
        "color": (first - 0.5, 2 * second, third + 0.5),  # added brightness, factors of saturation and contrast
        "crop": (first, second),  # where in their ranges the shifts down and right lie, from 0 to 1
        "cutout": (first, second),  # position of the centre, from 0 (top, left) to 1
        "flip": (float(first < 0.5),),  # whether
        "scale": tuple(smallest + (_MOST_SCALE - smallest) * drawn for drawn in (first, second)),  # of x and y
        "rotate": ((2 * first - 1) * _MOST_ROTATION,),  # degrees
    }
    return Augmentation(name, parameters[name])


def augment(
    images: Float[Tensor, "image channel height width"], augmentation: Augmentation
) -> Float[Tensor, "image channel height width"]:
    """Apply the same augmentation to every image; this function is deterministic.

    Args:
        images: Pixels on the encoder's normalised scale; 0 is the mean colour and fills the area outside the image.
        augmentation: Result of ``draw_augmentation``.
    """
    return _KINDS[augmentation.name](images, *augmentation.parameters)


def _color(images: Images, brightness: float, saturation: float, contrast: float) -> Images:
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * saturation + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * contrast + mean


def _crop(images: Images, down: float, right: float) -> Images:
    """Shift by whole pixels within a frame of zeros."""
    height, width = images.shape[2:]
    most = [int(size * _MOST_SHIFT + 0.5) for size in (height, width)]
    top, left = (int(place * (2 * margin + 1)) for place, margin in zip((down, right), most, strict=True))
    framed = F.pad(images, (most[1], most[1], most[0], most[0]))
    return framed[:, :, top : top + height, left : left + width]


def _cutout(images: Images, down: float, right: float) -> Images:
    """Set a rectangle to zero; up to half of it, or three quarters in a corner, may be outside the image."""
    outside = []
    for size, place in zip(images.shape[2:], (down, right), strict=True):
        side = int(size * _CUTOUT + 0.5)
        begin = int(place * (size + 1 - side % 2)) - side // 2
        pixel = torch.arange(size, device=images.device)
        outside.append((pixel < begin) | (pixel >= begin + side))
    return images * (outside[0][:, None] | outside[1])


def _flip(images: Images, whether: float) -> Images:
    return images.flip(3) if whether else images


def _scale(images: Images, of_x: float, of_y: float) -> Images:
    """Scale the content; factors above 1 make it smaller, as in the released code."""
    return _resampled(images, ((of_x, 0.0, 0.0), (0.0, of_y, 0.0)))


def _rotate(images: Images, degrees: float) -> Images:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _resampled(images, ((cosine, -sine, 0.0), (sine, cosine, 0.0)))


def _resampled(images: Images, affine: tuple[tuple[float, float, float], ...]) -> Images:
    """Resample bilinearly under an affine map (torch's convention: coordinates from -1 to 1), zero outside."""
    theta = to_device(torch.tensor(affine, dtype=images.dtype), images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


_KINDS: dict[str, Callable[..., Images]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
