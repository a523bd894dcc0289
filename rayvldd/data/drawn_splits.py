"""Splits of data that have none: a share of the images is drawn for validation, and for test."""

from collections.abc import Sequence

import numpy as np

from rayvldd.data.record_reader import SplitName

FEWEST_IMAGES = 10
"""Fewest images that are split."""


def num_held_out(held_out: float, num_images: int) -> int:
    """Number of images of each split that is drawn.

    Args:
        held_out: Share of the images.
        num_images: Images to draw from.
    """
    return max(1, round(held_out * num_images))


def drawn_splits(
    images: Sequence[str], held_out: float, seed: int, missing: Sequence[SplitName] = ("val", "test")
) -> dict[str, SplitName]:
    """Draw the splits of images; the same names have the same splits on every machine.

    Args:
        images: Names of the images, in any order.
        held_out: Share of the images of each drawn split.
        seed: Of the draw.
        missing: The splits that are drawn; the other images are for training.
    """
    ordered = sorted(images)
    shuffled = [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]
    count = num_held_out(held_out, len(shuffled))
    names: list[SplitName] = [split for split in missing for _ in range(count)]
    return dict(zip(shuffled, names + ["train"] * (len(shuffled) - len(names)), strict=False))
