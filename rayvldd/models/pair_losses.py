"""What a student minimises on a batch of pairs, given how much image i and text j belong together.

All take embeddings of length 1 and divide cosine similarities by the temperature, as experts and evaluation do. All
are twice differentiable by embeddings and similarity, and their shapes never depend on values.

Source: InfoNCE as in Wu et al., section 3.1; the other two LoRS, arXiv 2406.03793, which extends contrastive losses
to similarities between and beyond 0 and 1. With the similarity left out, ``extended_info_nce`` is InfoNCE.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

PairLoss = Callable[
    [Float[Tensor, "pair dim"], Float[Tensor, "pair dim"], Float[Tensor, "pair pair"] | None, float], Float[Tensor, ""]
]
"""Image embeddings, text embeddings, similarity (None: the identity) and temperature to a loss."""

_POSITIVE = 0.5
"""Similarity above which a pair counts as positive in ``weighted_bce``."""


def info_nce(
    images: Float[Tensor, "pair dim"],
    texts: Float[Tensor, "pair dim"],
    similarity: Float[Tensor, "pair pair"] | None,
    temperature: float,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: the mean of both cross entropies over cosine similarities / temperature.

    Args:
        images: Embeddings of length 1; row j belongs to row j of ``texts``.
        texts: Embeddings of length 1.
        similarity: Not read: here a pair belongs to itself alone.
        temperature: What similarities are divided by; 0.07 in Wu et al.
    """
    scores = images @ texts.T / temperature
    target = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def extended_info_nce(
    images: Float[Tensor, "pair dim"],
    texts: Float[Tensor, "pair dim"],
    similarity: Float[Tensor, "pair pair"] | None,
    temperature: float,
) -> Float[Tensor, ""]:
    """InfoNCE with every log probability weighted by the similarity of its image and text: LoRS's eNCE.

        - sum over i, j of s_ij (log softmax of row i at j + log softmax of column j at i) / (2 pairs)

    The weights are not normalised: a row of S that sums to 2 counts twice. LoRS's released code has the same under
    the name ``InfoNCE``, and a normalised variant (``CWCL``) that is not offered here.

    Args:
        images: Embeddings of length 1.
        texts: Embeddings of length 1.
        similarity: s_ij of image i and text j, any real numbers; None is the identity, which is InfoNCE.
        temperature: What cosine similarities are divided by.
    """
    if similarity is None:
        return info_nce(images, texts, None, temperature)
    scores = images @ texts.T / temperature
    log_probabilities = scores.log_softmax(1) + scores.log_softmax(0)
    return -(similarity * log_probabilities).sum() / (2 * len(scores))


def weighted_bce(
    images: Float[Tensor, "pair dim"],
    texts: Float[Tensor, "pair dim"],
    similarity: Float[Tensor, "pair pair"] | None,
    temperature: float,
) -> Float[Tensor, ""]:
    """Binary cross entropy of each image with each text, positives and negatives weighing the same: LoRS's wBCE.

    With p = sigmoid(cosine / temperature), - s log p - (1 - s) log(1 - p) is averaged over the positives (s > 0.5)
    and over the negatives apart, and the two means are averaged. LoRS's released code (``WBCE``) adds 1e-6 inside the
    logarithms, which caps the loss of an entry at about 14 and flattens its gradient there, and to both counts; here
    the logarithms are exact, and a side without members counts 0.

    Args:
        images: Embeddings of length 1.
        texts: Embeddings of length 1.
        similarity: s_ij of image i and text j, any real numbers; None is the identity.
        temperature: What cosine similarities are divided by.
    """
    scores = images @ texts.T / temperature
    if similarity is None:
        similarity = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    # softplus(x) - s x, which is the cross entropy for any s; torch's softplus is cut off from 20 on, logsigmoid is not
    losses = -F.logsigmoid(-scores) - similarity * scores
    positive = similarity > _POSITIVE
    return (_mean_where(positive, losses) + _mean_where(~positive, losses)) / 2


def _mean_where(chosen: Bool[Tensor, "pair pair"], values: Float[Tensor, "pair pair"]) -> Float[Tensor, ""]:
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)


PAIR_LOSSES: dict[str, PairLoss] = {
    "info_nce": info_nce,
    "extended_info_nce": extended_info_nce,
    "weighted_bce": weighted_bce,
}
"""By their names in ``distillation.student_loss``."""
