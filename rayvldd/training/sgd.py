"""SGD on batches of pairs.

Source: the released ``buffer.py`` and ``epoch.py`` of Wu et al.: plain SGD for experts, momentum 0.9 and weight decay
5e-4 for students. Each side has its own learning rate.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor

from rayvldd.config.settings import LearningRateDecay
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.training.optimiser_steps import sgd_step
from rayvldd.training.step_graphs import Differentiated, Losses, StepGraphs, total_of


class TrainingBatch(NamedTuple):
    """Pairs of one step, on the model's device."""

    frozen_output: Float[Tensor, "pair ..."]
    """Output of the frozen part for the images."""
    texts: Float[Tensor, "pair text_dim"]
    """Caption embeddings."""
    similarity: Float[Tensor, "pair pair"] | None = None
    """Target similarity of image i and text j; None: the identity."""


@dataclass(frozen=True)
class SgdSettings:
    """Settings of SGD."""

    lr_image: float
    lr_text: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay: LearningRateDecay = "none"
    """Course of both learning rates."""
    num_steps: int | None = None
    """Steps of the whole training; required by a decay."""


def decay_factor(decay: LearningRateDecay, step: int, num_steps: int | None) -> float:
    """Return the factor of the learning rates at a step, counted from 0; 1 at the first step.

    Raises:
        ValueError: if the decay needs the number of steps and it is not given.
    """
    if decay == "none":
        return 1.0
    if not num_steps:
        raise ValueError(f"the decay {decay!r} needs the number of steps, got {num_steps}")
    if decay == "step":
        return 0.1 if 2 * step >= num_steps else 1.0
    return (1 + math.cos(math.pi * step / num_steps)) / 2


class TwoSidedSgd:
    """SGD of an image side and a text side, each with a learning rate of its own that decays."""

    def __init__(
        self,
        image: Float[Tensor, "..."],
        text: Float[Tensor, "..."],
        settings: SgdSettings,
        losses: Losses,
        cuda_graphs: bool = False,
    ) -> None:
        """Create it for both sides, which are leaves and updated in place.

        Args:
            image: Parameters of the image side, of one model or of several as rows.
            text: Those of the text side.
            settings: Settings of SGD.
            losses: The loss of a batch with both sides, one for each model.
            cuda_graphs: Whether losses and gradients are replayed as CUDA graphs; the sides are then on a GPU.
        """
        self._settings, self._losses = settings, losses
        self._sides = (image, text)
        self._velocities: list[Tensor | None] = [None, None]
        self._differentiated = StepGraphs(losses, self._sides) if cuda_graphs else self._computed

    def step(self, number: int, batch: Sequence[Shaped[Tensor, "..."] | None]) -> Float[Tensor, "..."]:
        """Take the step with this number, counted from 0, and return the losses before it."""
        settings = self._settings
        factor = decay_factor(settings.decay, number, settings.num_steps)
        losses, gradients = self._differentiated(*batch)
        sides = zip(self._sides, gradients, (settings.lr_image, settings.lr_text), strict=True)
        for index, (side, gradient, rate) in enumerate(sides):
            if gradient is not None:
                self._velocities[index] = sgd_step(
                    side, gradient, self._velocities[index], factor * rate, settings.momentum, settings.weight_decay
                )
        return losses

    def _computed(self, *batch: Shaped[Tensor, "..."] | None) -> Differentiated:
        for side in self._sides:
            side.grad = None
        losses = self._losses(*batch)
        total_of(losses).backward()
        return losses.detach(), tuple(side.grad for side in self._sides)


def train_on_batches(
    model: RetrievalModel,
    parameters: Parameters,
    batches: Iterable[TrainingBatch],
    settings: SgdSettings,
    pair_loss: str = "info_nce",
    cuda_graphs: bool = False,
) -> tuple[Parameters, list[Float[Tensor, ""]]]:
    """Take one SGD step on each batch.

    Dropout and lazily sampled batches use torch's global generator, which the caller must seed.

    Args:
        model: The model; its own parameters are not used.
        parameters: Initial parameters; not changed.
        batches: Consumed one by one, so random numbers of a batch are drawn directly before its step.
        settings: Learning rates of both sides with their decay, momentum and weight decay.
        pair_loss: A name of ``PAIR_LOSSES``.
        cuda_graphs: Whether steps are replayed as CUDA graphs; the model is then on a GPU and has no dropout.

    Returns:
        New parameters on the device of the model, and the loss of every step, on the device.
    """
    device = model.mean.device
    image, text = (side.to(device).clone().requires_grad_() for side in parameters)  # type: ignore[arg-type]

    def loss(images: Tensor, texts: Tensor, similarity: Tensor | None) -> Tensor:
        return model.loss(Parameters(image, text), images, texts, similarity=similarity, pair_loss=pair_loss)

    sgd = TwoSidedSgd(image, text, settings, loss, cuda_graphs)
    losses: list[Tensor] = []
    model.train()
    try:
        for step, batch in enumerate(batches):
            losses.append(sgd.step(step, batch))  # no .item(): it would wait for the device at every step
    finally:
        model.train(False)
    return Parameters(image.detach(), text.detach()), losses
