"""Thumbnails of a distilled set, embedded in the page."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.reports.page.study_report import PairCaptions

MAX_SIDE = 112
"""Pixels of an image's longer side in the page; smaller images are not changed."""
_QUALITY = 70
"""WebP quality: distilled pixels resemble noise and compress badly; an image of 96 pixels takes about 4 KB."""


@dataclass(frozen=True)
class GalleryPair:
    """One pair before and after distillation."""

    number: int
    before: str
    """The image as a data URI."""
    after: str
    captions: PairCaptions
    is_small: bool
    """Whether pixels are displayed as squares."""


def gallery_of(distilled: DistilledSet, captions: Sequence[PairCaptions], most: int) -> Iterator[GalleryPair]:
    """Yield the first ``most`` pairs of a set.

    Args:
        distilled: The set.
        captions: One per pair; may be empty.
        most: Maximum number of pairs.
    """
    for number in range(min(most, len(distilled))):
        words = (
            captions[number]
            if number < len(captions)
            else PairCaptions(distilled.start_captions[number] or "(noise)", "", None)
        )
        before, after = (images[number].numpy() for images in (distilled.start_images, distilled.images))
        yield GalleryPair(number, data_uri(before), data_uri(after), words, max(after.shape[1:]) <= MAX_SIDE // 2)


def data_uri(pixels: np.ndarray) -> str:
    """Encode an image ``[3, height, width]`` with values from 0 to 1 as a data URI; other values are clamped."""
    eight_bit = (np.nan_to_num(pixels).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(eight_bit))
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    encoded = BytesIO()
    image.save(encoded, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
