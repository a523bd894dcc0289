"""Images of a set as they are shown in pictures, on pages and in trackers."""

import numpy as np
from jaxtyping import Float
from PIL import Image


def thumbnail(pixels: Float[np.ndarray, "3 height width"], side: int) -> Image.Image:
    """Convert an image for display: clamped to the range 0 to 1; small images are enlarged without smoothing.

    Args:
        pixels: RGB on a scale from 0 to 1.
        side: Side of the result in pixels.
    """
    eight_bit = (np.nan_to_num(pixels).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(eight_bit))
    enlarged = image.width * 2 <= side
    return image.resize((side, side), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
