"""Retrieval recall at 1, 5 and 10, both ways, in percent.

The rank of the right answer is counted, not sorted: one more than the number of wrong answers that are *not below*
it. Ties therefore count against the model, and embeddings that are constant or NaN score 0, not 100.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK = 256
"""Rows scored at a time: 256 x 25,000 scores in float32 are 26 MB."""


@dataclass(frozen=True)
class RetrievalMetrics:
    """Percent of queries whose right answer is among the first 1, 5 or 10."""

    image_to_text_r1: float
    image_to_text_r5: float
    image_to_text_r10: float
    text_to_image_r1: float
    text_to_image_r5: float
    text_to_image_r10: float

    @property
    def mean_recall(self) -> float:
        """Mean of the six recalls: what a search maximises."""
        return float(np.mean(list(asdict(self).values())))

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """The six recalls and their mean, each name after ``prefix``, e.g. ``val_``."""
        values = {**asdict(self), "mean_recall": self.mean_recall}
        return {f"{prefix}{name}": value for name, value in values.items()}


@dataclass(frozen=True)
class RetrievalRanks:
    """Place of the right answer for every query of a pool, 1 for the first."""

    image_to_text: Int[np.ndarray, " image"]
    """Place of each image's best-ranked caption."""
    text_to_image: Int[np.ndarray, " caption"]
    """Place of each caption's image."""

    def recalls(self) -> RetrievalMetrics:
        """The share of places up to 1, 5 and 10, in percent."""
        both = (self.image_to_text, self.text_to_image)
        return RetrievalMetrics(*[100 * float((ranks <= k).mean()) for ranks in both for k in (1, 5, 10)])


def retrieval_ranks(
    images: Float[Tensor, "image dim"],
    captions: Float[Tensor, "caption dim"],
    caption_image: Int[np.ndarray, " caption"],
) -> RetrievalRanks:
    """Rank embeddings of length 1 against each other.

    An image's answer is right when it is any of the image's captions, so its best-ranked caption counts. A pool of any
    size is scored as it is, also one of fewer than 10 items.

    Args:
        images: Image embeddings.
        captions: Caption embeddings.
        caption_image: Row of ``images`` that each caption belongs to.
    """
    owner = torch.from_numpy(caption_image).to(images.device)
    to_text = _ranks_image_to_text(images, captions, owner)
    to_image = _ranks_text_to_image(images, captions, owner)
    return RetrievalRanks(to_text.cpu().numpy(), to_image.cpu().numpy())


def retrieval_recall(
    images: Float[Tensor, "image dim"],
    captions: Float[Tensor, "caption dim"],
    caption_image: Int[np.ndarray, " caption"],
) -> RetrievalMetrics:
    """Recall of embeddings of length 1; see :func:`retrieval_ranks`."""
    return retrieval_ranks(images, captions, caption_image).recalls()


def _ranks_image_to_text(
    images: Float[Tensor, "image dim"], captions: Float[Tensor, "caption dim"], owner: Int[Tensor, " caption"]
) -> Int[Tensor, " image"]:
    ranks = []
    for start in range(0, len(images), _CHUNK):
        scores = images[start : start + _CHUNK] @ captions.T
        rows = torch.arange(start, start + len(scores), device=images.device)
        right = owner[None, :] == rows[:, None]
        best = torch.where(right, scores, -torch.inf).amax(1, keepdim=True)
        ranks.append(1 + (~(scores < best) & ~right).sum(1))
    return torch.cat(ranks)


def _ranks_text_to_image(
    images: Float[Tensor, "image dim"], captions: Float[Tensor, "caption dim"], owner: Int[Tensor, " caption"]
) -> Int[Tensor, " caption"]:
    ranks = []
    for start in range(0, len(captions), _CHUNK):
        scores = captions[start : start + _CHUNK] @ images.T
        chunk_owner = owner[start : start + _CHUNK, None]
        right_score = scores.gather(1, chunk_owner)
        ranks.append((~(scores < right_score)).sum(1))  # the right image itself is among them
    return torch.cat(ranks)
