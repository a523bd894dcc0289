"""Initialise a synthetic set with real pairs, selected as a coreset, or with noise for images or texts.

Sources: random real pairs and noise, Wu et al.; pairs nearest k-means centres, MDM; prototypes, PDS. Deviation: the
released code draws noise at hard-coded means and deviations; here images are standard normal on the encoder's
normalised scale and texts have mean and deviation of the real embeddings, which differ between encoders.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import InitialisationSettings
from rayvldd.coresets.selection import choose_coreset
from rayvldd.models.retrieval_task import RetrievalTask


@dataclass(frozen=True)
class InitialSet:
    """Images and texts before the first outer step, on the task's device."""

    images: Float[Tensor, "pair 3 height width"]
    """Pixels on the encoder's normalised scale."""
    texts: Float[Tensor, "pair text_dim"]
    """Caption embeddings."""
    captions: list[str]
    """Captions of ``texts``; empty strings if the texts are noise."""


def initial_set(
    task: RetrievalTask, settings: InitialisationSettings, num_pairs: int, generator: np.random.Generator
) -> InitialSet:
    """Create the initial pairs.

    Args:
        task: Task with the real pairs.
        settings: Selection of the pairs, and which side is noise.
        num_pairs: Number of pairs, after deducting the cost of a learned similarity.
        generator: Draws one seed for the coreset and one for the noise, independent of the settings.

    Raises:
        ConfigError: when there are fewer training images than pairs.
    """
    coreset = choose_coreset(task, settings.pairs, num_pairs, int(generator.integers(2**31)))
    images, texts = task.pixels(task.train, coreset.image_index), coreset.embeddings(task)
    captions = coreset.captions(task)
    noise = torch.Generator().manual_seed(int(generator.integers(2**31)))
    if settings.images == "noise":
        images = torch.randn(images.shape, generator=noise).to(images)
    if settings.texts == "noise":
        texts = torch.randn(texts.shape, generator=noise).to(texts) * texts.std() + texts.mean()
        captions = [""] * num_pairs
    return InitialSet(images, texts, captions)
