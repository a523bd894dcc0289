"""Diagnostics of a synthetic set beside its recall: have its pairs collapsed, and are its images copies of real ones.

Concentration is the mean cosine between different items of one modality, after the frozen part of the model: near 1,
the items are nearly the same. RepBlend (arXiv 2505.14705) reports it for LoRS and for its own sets.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.metrics import CONCENTRATION_IMAGE, CONCENTRATION_TEXT, NEAREST_IMAGE
from rayvldd.evaluation.students import Pairs
from rayvldd.models.retrieval_task import RetrievalTask

_CHUNK = 16384
"""Real images compared at a time."""
_READ = 256
"""Real images whose pixels are in memory at a time."""
_THUMBNAIL = 8
"""Side of the thumbnails by which images are compared where the encoder is trained, in pixels."""


@torch.no_grad()
def diagnostics(task: RetrievalTask, pairs: Pairs) -> dict[str, float]:
    """Return the concentration of both modalities, and the likeness to the nearest real images.

    Args:
        task: Model and data. If its encoder is not frozen, concentration is that of pixels, and the nearest real images
            are found by thumbnails.
        pairs: The synthetic pairs.
    """
    images = task.model.frozen_part(pairs.images.to(task.device)).flatten(1)
    if task.model.encoder_is_frozen:
        nearest = nearest_cosines(images.cpu(), task.train.images)
    else:
        shrunk = thumbnails(task.model.denormalise(pairs.images.to(task.device)).cpu())
        nearest = nearest_cosines(shrunk, _real_thumbnails(task))
    return {
        CONCENTRATION_IMAGE: concentration(images),
        CONCENTRATION_TEXT: concentration(pairs.texts),
        NEAREST_IMAGE: float(nearest.mean()),
    }


def thumbnails(images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image number"]:
    """Return the mean colours of 8 x 8 equal parts of images with values from 0 to 1, with mid grey as 0."""
    return F.adaptive_avg_pool2d(images - 0.5, min(_THUMBNAIL, images.shape[-1])).flatten(1)


def _real_thumbnails(task: RetrievalTask) -> Float[np.ndarray, "image number"]:
    """Return the thumbnails of all training images; they are read once in a process."""
    key = task.fingerprints["data"], task.image_size
    if key not in _thumbnails_before:
        pixels = task.train.split.pixels
        parts = (torch.from_numpy(np.array(pixels[start : start + _READ])) for start in range(0, len(pixels), _READ))
        _thumbnails_before[key] = torch.cat([thumbnails(part.float() / 255) for part in parts]).numpy()
    return _thumbnails_before[key]


_thumbnails_before: dict[tuple[str, int], Float[np.ndarray, "image number"]] = {}
"""Thumbnails of training images in this process: 0.8 kB of each, while the pixels may be gigabytes."""


def concentration(items: Float[Tensor, "item dim"]) -> float:
    """Return the mean cosine between different items; at least two."""
    unit = F.normalize(items.float(), dim=1)
    count = len(unit)
    # The sum of all cosines is the squared length of the sum; each item with itself has the cosine 1.
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def nearest_cosines(items: Float[Tensor, "item dim"], real: Float[np.ndarray, "image dim"]) -> Float[Tensor, " item"]:
    """Return for each item the cosine to the nearest row of ``real``."""
    unit, best = F.normalize(items, dim=1), torch.full((len(items),), -1.0)
    for start in range(0, len(real), _CHUNK):
        rows = F.normalize(torch.from_numpy(np.array(real[start : start + _CHUNK])), dim=1)
        best = torch.maximum(best, (unit @ rows.T).amax(dim=1))
    return best
