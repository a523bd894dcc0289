"""SGD of several models of one kind in one pass: their parameters are rows of a matrix, each has its own batches.

The small steps of one student do not fill a GPU. The numbers are those of
:func:`rayvldd.training.sgd.train_on_batches` up to the order of sums. Dropout would draw other masks, so that models
with dropout are trained one after another.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.training.sgd import SgdSettings, TwoSidedSgd


class StackedBatch(NamedTuple):
    """Pairs of one step of every model, on their device."""

    frozen_output: Float[Tensor, "model pair ..."]
    """Output of the frozen part for the images."""
    texts: Float[Tensor, "model pair text_dim"]
    """Caption embeddings."""
    similarity: Float[Tensor, "model pair pair"] | None = None
    """Target similarity of image i and text j; None: the identity."""


def train_stacked(
    model: RetrievalModel,
    parameters: Sequence[Parameters],
    batches: Iterable[StackedBatch],
    settings: SgdSettings,
    pair_loss: str = "info_nce",
    cuda_graphs: bool = False,
) -> tuple[list[Parameters], list[Float[Tensor, " model"]]]:
    """Take one SGD step of every model on each batch.

    Args:
        model: The model; its own parameters are not used.
        parameters: Initial parameters of each model; not changed.
        batches: Consumed one by one.
        settings: Learning rates of both sides with their decay, momentum and weight decay.
        pair_loss: A name of ``PAIR_LOSSES``.
        cuda_graphs: Whether steps are replayed as CUDA graphs; the model is then on a GPU.

    Returns:
        New parameters of each model on its device, and the losses of every step, on the device.
    """
    device = model.mean.device
    image, text = (
        torch.stack([side.to(device) for side in sides]).requires_grad_() for sides in zip(*parameters, strict=True)
    )

    def loss_of_one(image: Tensor, text: Tensor, images: Tensor, texts: Tensor, similarity: Tensor | None) -> Tensor:
        return model.loss(Parameters(image, text), images, texts, similarity=similarity, pair_loss=pair_loss)

    def of_each(images: Tensor, texts: Tensor, similarity: Tensor | None) -> Tensor:
        axes = (0, 0, 0, 0, None if similarity is None else 0)
        return vmap(loss_of_one, in_dims=axes)(image, text, images, texts, similarity)

    sgd = TwoSidedSgd(image, text, settings, of_each, cuda_graphs)
    losses: list[Tensor] = []
    model.train()
    try:
        for step, batch in enumerate(batches):
            losses.append(sgd.step(step, batch))
    finally:
        model.train(False)
    rows = zip(image.detach().unbind(), text.detach().unbind(), strict=True)
    return [Parameters(*sides) for sides in rows], losses
