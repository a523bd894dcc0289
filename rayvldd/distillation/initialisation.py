"""What a synthetic set starts from: real pairs, chosen as a coreset, or noise in place of either side.

Sources: random real pairs and noise, Wu et al.; pairs nearest k-means centres, MDM. Deviation: the
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
    """The captions behind ``texts``; empty ones where they are noise."""


def initial_set(
    task: RetrievalTask, settings: InitialisationSettings, num_pairs: int, generator: np.random.Generator
) -> InitialSet:
    """Choose or draw the start.

    Args:
        task: Where real pairs come from.
        settings: Which pairs, and what of them is noise.
        num_pairs: Pairs to start, what a learned similarity costs already taken off.
        generator: Draws one seed for the coreset and one for the noise, whatever the settings.

    Raises:
        ConfigError: when there are fewer training images than pairs.
    """
    coreset = choose_coreset(task, settings.pairs, num_pairs, int(generator.integers(2**31)))
    images, texts = task.pixels(task.train, coreset.image_index), task.texts(task.train, coreset.caption_index)
    captions = coreset.captions(task)
    noise = torch.Generator().manual_seed(int(generator.integers(2**31)))
    if settings.images == "noise":
        images = torch.randn(images.shape, generator=noise).to(images)
    if settings.texts == "noise":
        texts = torch.randn(texts.shape, generator=noise).to(texts) * texts.std() + texts.mean()
        captions = [""] * num_pairs
    return InitialSet(images, texts, captions)
