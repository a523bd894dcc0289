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


@torch.no_grad()
def diagnostics(task: RetrievalTask, pairs: Pairs) -> dict[str, float]:
    """Return the concentration of both modalities and, where image features are cached, the nearest real images.

    Args:
        task: Model and data. If its encoder is not frozen, the images are compared as pixels.
        pairs: The synthetic pairs.
    """
    images = task.model.frozen_part(pairs.images.to(task.device)).flatten(1)
    found = {CONCENTRATION_IMAGE: concentration(images), CONCENTRATION_TEXT: concentration(pairs.texts)}
    if task.model.encoder_is_frozen:
        found[NEAREST_IMAGE] = float(nearest_cosines(images.cpu(), task.train.images).mean())
    return found


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
