"""SGD on batches of pairs.

Source: the released ``buffer.py`` and ``epoch.py`` of Wu et al.: plain SGD for experts, momentum 0.9 and weight decay
5e-4 for students. Each side has a rate of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel


class TrainingBatch(NamedTuple):
    """Pairs of one step, on the model's device."""

    frozen_output: Float[Tensor, "pair ..."]
    """Images that went through the frozen part."""
    texts: Float[Tensor, "pair text_dim"]
    """Caption embeddings."""
    similarity: Float[Tensor, "pair pair"] | None = None
    """How much image i and text j belong together; None where only i = j do."""


@dataclass(frozen=True)
class SgdSettings:
    """Rates of an SGD."""

    lr_image: float
    lr_text: float
    momentum: float = 0.0
    weight_decay: float = 0.0


def train_on_batches(
    model: RetrievalModel,
    parameters: Parameters,
    batches: Iterable[TrainingBatch],
    settings: SgdSettings,
    pair_loss: str = "info_nce",
) -> tuple[Parameters, list[Float[Tensor, ""]]]:
    """Take one SGD step on each batch.

    Dropout and lazily drawn batches use torch's global stream: the caller seeds it.

    Args:
        model: Its own parameters are not read.
        parameters: Where training begins; not changed.
        batches: Consumed one by one, so that what they draw is drawn between the steps.
        settings: Rates of both sides.
        pair_loss: A name of ``PAIR_LOSSES``.

    Returns:
        New parameters on the device of the model, and the loss of every step, on the device.
    """
    device = model.mean.device
    image, text = (side.to(device).clone().requires_grad_() for side in parameters)  # type: ignore[arg-type]
    optimiser = torch.optim.SGD(
        [{"params": [image], "lr": settings.lr_image}, {"params": [text], "lr": settings.lr_text}],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    losses: list[Tensor] = []
    model.train()
    try:
        for batch in batches:
            loss = model.loss(
                Parameters(image, text),
                batch.frozen_output,
                batch.texts,
                similarity=batch.similarity,
                pair_loss=pair_loss,
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())  # no .item(): it would wait for the device at every step
    finally:
        model.train(False)
    return Parameters(image.detach(), text.detach()), losses
