"""Retrieval recall at 1, 5 and 10, in both directions, in percent.

The rank of the correct answer is counted, not sorted: one more than the number of wrong answers that score *not below*
it. Ties therefore count against the model, and embeddings that are constant or NaN score 0, not 100.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayvldd.config.metrics import MEAN_RECALL

_CHUNK = 256
"""Rows scored at once: 256 x 25,000 scores in float32 are 26 MB."""


@dataclass(frozen=True)
class RetrievalMetrics:
    """Percentage of queries whose correct answer is among the first 1, 5 or 10."""

    image_to_text_r1: float
    image_to_text_r5: float
    image_to_text_r10: float
    text_to_image_r1: float
    text_to_image_r5: float
    text_to_image_r10: float

    @property
    def mean_recall(self) -> float:
        """Mean of the six recalls, which a search maximises."""
        return float(np.mean(list(asdict(self).values())))

    def __str__(self) -> str:
        to_text = (self.image_to_text_r1, self.image_to_text_r5, self.image_to_text_r10)
        to_image = (self.text_to_image_r1, self.text_to_image_r5, self.text_to_image_r10)
        sides = ("/".join(f"{value:.1f}" for value in side) for side in (to_text, to_image))
        return "mean recall {:.1f} %, image to text R@1/5/10 {}, text to image {}".format(self.mean_recall, *sides)

    def as_dict(self, prefix: str = "") -> dict[str, float]:
        """Return the six recalls and their mean, with names prefixed by ``prefix``, e.g. ``val_``."""
        values = {**asdict(self), MEAN_RECALL.name: self.mean_recall}
        return {f"{prefix}{name}": value for name, value in values.items()}


@dataclass(frozen=True)
class RetrievalRanks:
    """Rank of the correct answer for every query of a pool; 1 is the first."""

    image_to_text: Int[np.ndarray, " image"]
    """Rank of each image's best-ranked caption."""
    text_to_image: Int[np.ndarray, " caption"]
    """Rank of each caption's image."""

    def recalls(self) -> RetrievalMetrics:
        """Return the share of ranks up to 1, 5 and 10, in percent."""
        both = (self.image_to_text, self.text_to_image)
        return RetrievalMetrics(*[100 * float((ranks <= k).mean()) for ranks in both for k in (1, 5, 10)])


def retrieval_ranks(
    images: Float[Tensor, "image dim"],
    captions: Float[Tensor, "caption dim"],
    caption_image: Int[np.ndarray, " caption"],
) -> RetrievalRanks:
    """Rank embeddings of length 1 against each other.

    Every caption of an image is a correct answer, so its best-ranked caption counts. Pools of any size are allowed,
    also with fewer than 10 items.

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
    owner, captions_by_image = torch.sort(owner, stable=True)
    firsts = torch.searchsorted(owner, torch.arange(len(images) + 1, device=images.device)).tolist()
    ranks = []
    for start in range(0, len(images), _CHUNK):
        scores = images[start : start + _CHUNK] @ captions.T
        own = slice(firsts[start], firsts[start + len(scores)])
        row = owner[own] - start
        right = scores[row, captions_by_image[own]]
        best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, row, right, "amax")
        right_not_below = torch.zeros_like(best, dtype=torch.int64).scatter_add(0, row, (~(right < best[row])).long())
        ranks.append(1 + captions.shape[0] - _below(scores, best) - right_not_below)
    return torch.cat(ranks)


def _ranks_text_to_image(
    images: Float[Tensor, "image dim"], captions: Float[Tensor, "caption dim"], owner: Int[Tensor, " caption"]
) -> Int[Tensor, " caption"]:
    ranks = []
    for start in range(0, len(captions), _CHUNK):
        scores = captions[start : start + _CHUNK] @ images.T
        right = scores.gather(1, owner[start : start + _CHUNK, None])[:, 0]
        ranks.append(len(images) - _below(scores, right))  # the correct image itself is counted as not below
    return torch.cat(ranks)


def _below(scores: Float[Tensor, "query item"], limits: Float[Tensor, " query"]) -> Int[Tensor, " query"]:
    """Count the items of each query that score below its limit; items are not counted if either value is NaN."""
    return (scores < limits[:, None]).sum(1, dtype=torch.int32)  # faster than int64, and large enough for any pool
