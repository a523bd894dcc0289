"""Inputs of the inner loop: the synthetic set and its batches.

All randomness inside a step (augmentation, blending, dropout) depends on the seed of the step, so that the backward
sweep can replay it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.inner_loop import InnerLoopSettings
from rayvldd.distillation.augmentation import augment, draw_augmentation
from rayvldd.distillation.blending import blend, draw_blend
from rayvldd.models.copies import to_device
from rayvldd.randomness import SEED_END


@dataclass(frozen=True)
class InnerBatches:
    """Batches and seeds of a student's steps."""

    batches: Sequence[Int[Tensor, " batch"]]
    """Pair indexes of each step."""
    seeds: Sequence[int]
    """Seed of the randomness inside each step."""

    def __len__(self) -> int:
        return len(self.batches)


def draw_batches(
    settings: InnerLoopSettings,
    num_pairs: int,
    generator: np.random.Generator,
    device: torch.device,
    steps: int | None = None,
) -> InnerBatches:
    """Draw the pairs and the seed of each student step.

    Pairs are drawn by epoch permutation, so that every pair is used once before any is repeated, or independently.

    Args:
        settings: Number of steps and pairs per step.
        num_pairs: Number of pairs in the synthetic set.
        generator: Draws the pairs of all steps first, then the seeds.
        device: Device of the indexes.
        steps: Number of steps, if it is not ``syn_steps``.
    """
    steps = settings.syn_steps if steps is None else steps
    batch_size = min(settings.batch_size or num_pairs, num_pairs)
    per_epoch = num_pairs // batch_size if settings.batches == "permuted" else 1
    orders = [generator.permutation(num_pairs) for _ in range(-(-steps // per_epoch))]
    epochs = to_device(torch.from_numpy(np.stack(orders)), device)  # one copy to a GPU for all steps
    batches = [batch for order in epochs for batch in order[: per_epoch * batch_size].split(batch_size)]
    seeds = [int(seed) for seed in generator.integers(SEED_END, size=steps)]
    return InnerBatches(batches[:steps], seeds)


class StudentInputs(NamedTuple):
    """Tensors with respect to which the loss of a student's end is differentiated."""

    frozen_output: Float[Tensor, "pair ..."]
    """Synthetic images after the frozen part, or the images themselves if there is none."""
    texts: Float[Tensor, "pair text_dim"]
    """Synthetic caption embeddings."""
    lr_image: Float[Tensor, ""]
    """Learned step size of the image side."""
    lr_text: Float[Tensor, ""]
    """Learned step size of the text side."""
    similarity: Float[Tensor, "pair pair"] | None = None
    """Similarity of image i and text j; None for the identity."""


class Batch(NamedTuple):
    """Inputs of one step."""

    images: Float[Tensor, "batch ..."]
    texts: Float[Tensor, "batch text_dim"]
    similarity: Float[Tensor, "batch batch"] | None

    def leaves(self) -> "Batch":
        """Return the same values as leaves of a new graph."""
        images, texts, similarity = self.detached()
        return Batch(
            images.requires_grad_(), texts.requires_grad_(), None if similarity is None else similarity.requires_grad_()
        )

    def detached(self) -> "Batch":
        """Return the same values without their graph."""
        similarity = None if self.similarity is None else self.similarity.detach()
        return Batch(self.images.detach(), self.texts.detach(), similarity)

    def tensors(self) -> list[Tensor]:
        """Return the tensors that are not None."""
        return [part for part in self if part is not None]


def pick(inputs: StudentInputs, pairs: Int[Tensor, " batch"]) -> Batch:
    """Select the pairs of one step as leaves of a new graph."""
    similarity = None if inputs.similarity is None else inputs.similarity[pairs][:, pairs]
    return Batch(inputs.frozen_output[pairs], inputs.texts[pairs], similarity).leaves()


class Preparation:
    """Differentiable preparation of a step's pairs for the model, determined by the seed of the step."""

    def __init__(self, common: DistillationSettings, settings: InnerLoopSettings, encoder_is_frozen: bool) -> None:
        # Features cannot be augmented: with a frozen encoder the images are augmented before it, once per outer step.
        self._augmentations = () if encoder_is_frozen else common.augmentation
        self._blending = settings.blending

    @property
    def changes_nothing(self) -> bool:
        """Whether the preparation is the identity."""
        return not self._augmentations and self._blending is None

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """Return the prepared batch for the model."""
        images, texts, similarity = batch
        if self._augmentations:
            images = augment(images, draw_augmentation(seed, self._augmentations))
        if self._blending is not None:
            drawn = draw_blend(seed, len(texts), self._blending)
            images, texts = blend(images, drawn), blend(texts, drawn)
        return Batch(images, texts, similarity)


class InputGradient:
    """Gradient with respect to the student's inputs, accumulated step by step."""

    def __init__(self, inputs: StudentInputs) -> None:
        self._total = StudentInputs(
            torch.zeros_like(inputs.frozen_output),
            torch.zeros_like(inputs.texts),
            torch.zeros_like(inputs.lr_image),
            torch.zeros_like(inputs.lr_text),
            None if inputs.similarity is None else torch.zeros_like(inputs.similarity),
        )

    def add(self, pairs: Int[Tensor, " batch"], by_batch: Batch) -> None:
        """Subtract the contribution of a step: a step moves along the negative gradient."""
        self._total.frozen_output.index_add_(0, pairs, by_batch.images, alpha=-1)
        self._total.texts.index_add_(0, pairs, by_batch.texts, alpha=-1)
        if by_batch.similarity is not None and self._total.similarity is not None:
            rows, columns = pairs[:, None].expand(-1, len(pairs)), pairs[None].expand(len(pairs), -1)
            self._total.similarity.index_put_((rows, columns), -by_batch.similarity, accumulate=True)

    def add_step_sizes(self, image: Float[Tensor, ""], text: Float[Tensor, ""]) -> None:
        """Subtract the products of adjoint and gradient of a step."""
        self._total.lr_image.sub_(image)
        self._total.lr_text.sub_(text)

    @property
    def total(self) -> StudentInputs:
        """Return the accumulated gradient."""
        return self._total
