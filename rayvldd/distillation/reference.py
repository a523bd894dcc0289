"""Direct implementations of methods with an inner loop, as an introduction for readers and a reference for tests.

They use one graph over all student steps, so memory grows with ``syn_steps``.
:mod:`rayvldd.distillation.trajectory_matching` and :mod:`rayvldd.distillation.meta_model` compute the same numbers with
the memory of one step.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.inner_loop import InnerLoopSettings
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.settings import LearningRateDecay
from rayvldd.distillation.augmentation import augment, draw_augmentation
from rayvldd.distillation.blending import blend, draw_blend
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs
from rayvldd.experts.trajectory import Segment
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.randomness import seeded
from rayvldd.training.sgd import decay_factor


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
    blending = settings.of(TrajectoryMatchingSettings).blending
    image, text = (side.clone().requires_grad_() for side in segment.start)
    for step in range(len(batches)):
        loss = student_loss(model, Parameters(image, text), inputs, batches, step, settings, blending)
        by_image, by_text = torch.autograd.grad(loss, (image, text), create_graph=True)
        image, text = image - inputs.lr_image * by_image, text - inputs.lr_text * by_text
    start, target = segment.start, segment.target
    image_part = (image - target.image).square().sum() / (start.image - target.image).square().sum()
    text_part = (text - target.text).square().sum() / (start.text - target.text).square().sum()
    return image_part + text_part


def unrolled_meta_loss(
    model: RetrievalModel,
    start: Parameters,
    inputs: StudentInputs,
    batches: InnerBatches,
    settings: DistillationSettings,
    real: tuple[Float[Tensor, "real ..."], Float[Tensor, "real text_dim"]],
    *,
    momentum: float,
    weight_decay: float,
    decay: LearningRateDecay = "none",
    window: int | None = None,
) -> Float[Tensor, ""]:
    """Return the loss on real pairs of a student unrolled from ``start``, differentiable by all ``inputs``.

    With a window, the state before the last ``window`` steps counts as a constant.
    """
    section = settings.section()
    blending = section.blending if isinstance(section, InnerLoopSettings) else None
    first = 0 if window is None else len(batches) - window
    sides = [side.clone().requires_grad_() for side in start]
    velocities = [torch.zeros_like(side) for side in sides]
    for step in range(len(batches)):
        if step == first:
            sides = [side.detach().requires_grad_() for side in sides]
            velocities = [velocity.detach() for velocity in velocities]
        loss = student_loss(model, Parameters(*sides), inputs, batches, step, settings, blending)
        gradients = torch.autograd.grad(loss, sides, create_graph=True)
        velocities = [
            momentum * velocity + by + weight_decay * side
            for velocity, by, side in zip(velocities, gradients, sides, strict=True)
        ]
        sizes = (inputs.lr_image, inputs.lr_text)
        factor = decay_factor(decay, step, len(batches))
        sides = [side - factor * size * by for side, size, by in zip(sides, sizes, velocities, strict=True)]
    training = model.training
    model.train(False)
    loss = model.loss(Parameters(*sides), *real)
    model.train(training)
    return loss


def student_loss(
    model: RetrievalModel,
    student: Parameters,
    inputs: StudentInputs,
    batches: InnerBatches,
    step: int,
    settings: DistillationSettings,
    blending: float | None,
) -> Float[Tensor, ""]:
    """Return the loss that a student minimises in one step, differentiable by parameters and ``inputs``."""
    batch, seed = batches.batches[step], batches.seeds[step]
    images, texts = inputs.frozen_output[batch], inputs.texts[batch]
    if settings.augmentation:
        images = augment(images, draw_augmentation(seed, settings.augmentation))
    if blending is not None:
        drawn = draw_blend(seed, len(batch), blending)
        images, texts = blend(images, drawn), blend(texts, drawn)
    similarity = None if inputs.similarity is None else inputs.similarity[batch][:, batch]
    with seeded(seed):
        return model.loss(student, images, texts, similarity=similarity, pair_loss=settings.student_loss)
