"""Batches of real training pairs in random order, for experts, models of all pairs and methods of distillation.

Source: the released ``buffer.py`` of Wu et al., where an epoch has every image-caption pair once. Deviation: an epoch
may take one random caption per image instead.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from rayvldd.background import in_advance
from rayvldd.config.settings import CaptionsPerImage
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.training.sgd import TrainingBatch


@dataclass(frozen=True)
class RealEpoch:
    """One pass over the real training pairs, in a new random order each time."""

    task: RetrievalTask
    batch_size: int
    captions_per_image: CaptionsPerImage
    """``all``: every pair once; ``one``: one random caption per image."""
    num_images: int | None = None
    """Only the first images of the split; None: all."""

    @property
    def num_pairs(self) -> int:
        """Pairs in all batches and in a final one that is too small."""
        captions = self._captions()
        if self.captions_per_image == "all":
            return len(captions)
        return len(np.unique(self.task.train.split.caption_image[captions]))

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return len(_parts(np.arange(self.num_pairs), self.batch_size))

    def batches(self, generator: np.random.Generator) -> Generator[TrainingBatch]:
        """Yield the batches of an epoch; the order is drawn when the first one is requested.

        Where rows are copied from the host, the next batch is read in the background; closing the generator ends that.
        """
        train = self.task.train
        order = generator.permutation(self._captions())
        if self.captions_per_image == "one":
            order = _one_per_image(order, train.split.caption_image)
        with self.task.reading(train) as begin:
            yield from in_advance(begin, self._read, _parts(order, self.batch_size))

    def _read(self, captions: Int[np.ndarray, " pair"]) -> TrainingBatch:
        train = self.task.train
        images = self.task.frozen_outputs(train, train.split.caption_image[captions])
        return TrainingBatch(images, self.task.texts(train, captions))

    def _captions(self) -> Int[np.ndarray, " caption"]:
        """Captions of the images that are used."""
        train = self.task.train
        return np.flatnonzero(train.split.caption_image < (self.num_images or train.num_images))


def draw_real_pairs(train: SplitInputs, size: int, generator: np.random.Generator) -> Int[np.ndarray, " pair"]:
    """Return the caption indexes of at most ``size`` images, each with one of its captions, all drawn at random.

    ``train.split.caption_image`` has the image of each.
    """
    order = generator.permutation(len(train.caption_embeddings))
    return _one_per_image(order, train.split.caption_image)[:size]


def _one_per_image(
    order: Int[np.ndarray, " caption"], caption_image: Int[np.ndarray, " all_captions"]
) -> Int[np.ndarray, " image"]:
    """Keep the first caption of each image; a random one, because the order is random."""
    _, first = np.unique(caption_image[order], return_index=True)
    kept: np.ndarray = order[np.sort(first)]
    return kept


def _parts(order: Int[np.ndarray, " caption"], size: int) -> list[np.ndarray]:
    """Consecutive batches; a contrastive loss needs two pairs, so a last batch of one is dropped."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return [part for part in parts if len(part) > 1]
