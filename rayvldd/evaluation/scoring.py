"""Compute ranks and recall of a student's parameters on one split of the real data."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.background import in_advance
from rayvldd.evaluation.recall import RetrievalMetrics, RetrievalRanks, retrieval_ranks
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs

_BATCH = 512
"""Number of images or captions embedded at once."""


def score(task: RetrievalTask, parameters: Parameters, inputs: SplitInputs) -> RetrievalMetrics:
    """Embed the whole split with ``parameters`` and compute its recalls, in percent."""
    return ranks(task, parameters, inputs).recalls()


def ranks(task: RetrievalTask, parameters: Parameters, inputs: SplitInputs) -> RetrievalRanks:
    """Embed the whole split with ``parameters`` and rank the correct answer to every query."""
    images, captions = embeddings(task, parameters, inputs)
    return retrieval_ranks(images, captions, inputs.split.caption_image)


@torch.no_grad()
def embeddings(
    task: RetrievalTask, parameters: Parameters, inputs: SplitInputs
) -> tuple[Float[Tensor, "image dim"], Float[Tensor, "caption dim"]]:
    """Embed all images and captions with ``parameters``."""
    model = task.model.train(False)
    image_parameters, text_parameters = (side.to(task.device) for side in parameters)

    def images_of(index: np.ndarray) -> tuple[Tensor]:
        return (task.frozen_outputs(inputs, index),)

    def texts_of(index: np.ndarray) -> tuple[Tensor]:
        return (task.texts(inputs, index),)

    with task.reading(inputs) as begin:
        rows = in_advance(begin, images_of, _batches(inputs.num_images))
        images = torch.cat([model.embed_images(part, image_parameters) for (part,) in rows])
        rows = in_advance(begin, texts_of, _batches(len(inputs.caption_embeddings)))
        captions = torch.cat([model.embed_texts(part, text_parameters) for (part,) in rows])
    return images, captions


def _batches(count: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
