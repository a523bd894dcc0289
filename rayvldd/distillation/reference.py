"""Direct implementation of trajectory matching, as an introduction for readers and a reference for tests.

It uses one graph over all student steps, so memory grows with ``syn_steps``.
:mod:`rayvldd.distillation.trajectory_matching` computes the same numbers with the memory of one step.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.distillation.augmentation import augment, draw_augmentation
from rayvldd.distillation.blending import blend, draw_blend
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs
from rayvldd.experts.trajectory import Segment
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.randomness import seeded


def unrolled_matching_loss(
    model: RetrievalModel,
    segment: Segment,
    inputs: StudentInputs,
    batches: InnerBatches,
    settings: DistillationSettings,
) -> Float[Tensor, ""]:
    """Return the matching loss of a student unrolled from the segment's start, differentiable by all ``inputs``.

    Source: Wu et al., algorithm 1 and equation 2.

    Args:
        model: The two-tower model.
        segment: Start and target parameters of the expert.
        inputs: Synthetic pairs and step sizes.
        batches: Indices of the pairs and the seed of every student step.
        settings: Settings of the distillation with trajectory matching.
    """
    image, text = (side.clone().requires_grad_() for side in segment.start)
    blending = settings.of(TrajectoryMatchingSettings).blending
    for batch, seed in zip(batches.batches, batches.seeds, strict=True):
        images, texts = inputs.frozen_output[batch], inputs.texts[batch]
        if settings.augmentation:
            images = augment(images, draw_augmentation(seed, settings.augmentation))
        if blending is not None:
            drawn = draw_blend(seed, len(batch), blending)
            images, texts = blend(images, drawn), blend(texts, drawn)
        similarity = None if inputs.similarity is None else inputs.similarity[batch][:, batch]
        with seeded(seed):
            loss = model.loss(
                Parameters(image, text), images, texts, similarity=similarity, pair_loss=settings.student_loss
            )
        by_image, by_text = torch.autograd.grad(loss, (image, text), create_graph=True)
        image, text = image - inputs.lr_image * by_image, text - inputs.lr_text * by_text
    start, target = segment.start, segment.target
    image_part = (image - target.image).square().sum() / (start.image - target.image).square().sum()
    text_part = (text - target.text).square().sum() / (start.text - target.text).square().sum()
    return image_part + text_part
