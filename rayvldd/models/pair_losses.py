"""Student losses on a batch of pairs with a similarity of image i and text j.

All losses take embeddings of length 1 and divide cosine similarities by the temperature, as experts and evaluation do.
All are twice differentiable with respect to embeddings and similarity, and their shapes never depend on values.

Source: InfoNCE as in Wu et al., section 3.1; the other two from LoRS, arXiv 2406.03793, which extends contrastive
losses to arbitrary real similarities. Without a similarity, ``extended_info_nce`` is InfoNCE.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

PairLoss = Callable[
    [Float[Tensor, "pair dim"], Float[Tensor, "pair dim"], Float[Tensor, "pair pair"] | None, float], Float[Tensor, ""]
]
"""Function of image embeddings, text embeddings, similarity (None: the identity) and temperature."""

_POSITIVE = 0.5
"""Similarity above which a pair counts as positive in ``weighted_bce``."""


def info_nce(
    images: Float[Tensor, "pair dim"],
    texts: Float[Tensor, "pair dim"],
    similarity: Float[Tensor, "pair pair"] | None,
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the symmetric InfoNCE loss: the mean of both cross entropies over cosine similarities / temperature.

    Args:
        images: Embeddings of length 1; row j belongs to row j of ``texts``.
        texts: Embeddings of length 1.
        similarity: Not used: only row i and column i form a pair.
        temperature: Divisor of the cosine similarities; 0.07 in Wu et al.
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
    """Return InfoNCE with every log probability weighted by the similarity of its image and text: LoRS's eNCE.

        - sum over i, j of s_ij (log softmax of row i at j + log softmax of column j at i) / (2 pairs)

    The weights are not normalised: a row of S with sum 2 counts twice. LoRS's released code calls this loss
    ``InfoNCE``, and has a normalised variant (``CWCL``) that is not available here.

    Args:
        images: Embeddings of length 1.
        texts: Embeddings of length 1.
        similarity: s_ij of image i and text j, any real numbers; None is the identity, which is InfoNCE.
        temperature: Divisor of the cosine similarities.
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
    """Return the binary cross entropy of all pairs (i, j), with positives and negatives weighted equally: LoRS's wBCE.

    With p = sigmoid(cosine / temperature), - s log p - (1 - s) log(1 - p) is averaged separately over the positives
    (s > 0.5) and the negatives, and the two means are averaged. LoRS's released code (``WBCE``) adds 1e-6 inside the
    logarithms, which limits the loss of an entry to about 14 and flattens its gradient there, and to both counts; here
    the logarithms are exact, and an empty side contributes 0.

    Args:
        images: Embeddings of length 1.
        texts: Embeddings of length 1.
        similarity: s_ij of image i and text j, any real numbers; None is the identity.
        temperature: Divisor of the cosine similarities.
    """
    scores = images @ texts.T / temperature
    if similarity is None:
        similarity = torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    # softplus(x) - s x is the cross entropy for any s; torch's softplus is linear above 20, logsigmoid is exact
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
"""Losses by their names in ``distillation.student_loss``."""
