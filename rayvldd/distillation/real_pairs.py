"""Draw a batch of real training pairs in which no image occurs twice."""

import numpy as np
from jaxtyping import Int

from rayvldd.models.retrieval_task import SplitInputs


def draw_real_pairs(train: SplitInputs, size: int, generator: np.random.Generator) -> Int[np.ndarray, " pair"]:
    """Return the caption indexes of at most ``size`` images, each with one of its captions, all drawn at random.

    ``train.split.caption_image`` has the image of each.
    """
    order = generator.permutation(len(train.caption_embeddings))
    _, first = np.unique(train.split.caption_image[order], return_index=True)  # one random caption for each image
    chosen: np.ndarray = order[np.sort(first)[:size]]
    return chosen
