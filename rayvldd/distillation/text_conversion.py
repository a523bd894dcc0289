"""Caption embeddings of a set in the space of another text encoder, for students with that encoder.

A distilled text is an embedding without words, so another text encoder cannot embed it again. It is converted in one
of three ways: as it is, where both embeddings have the same width; by the nearest real caption, which the other
encoder embeds; or by a linear map, fitted by ridge regression to the embeddings of real captions by both encoders.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

TextConversion = Literal["auto", "as_is", "nearest", "ridge"]
CONVERSIONS: tuple[TextConversion, ...] = ("auto", "as_is", "nearest", "ridge")
"""``auto``: as they are if both encoders have the same width, else by the linear map."""
_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties that are tried, in units of the mean variance of a dimension."""
_HELD_OUT = 10
"""Every tenth caption is held out to choose the penalty."""
_FEWEST_CAPTIONS = 20


@dataclass(frozen=True)
class ConvertedTexts:
    """Caption embeddings in the space of another text encoder."""

    texts: Float[Tensor, "pair text_dim"]
    words: str
    """What was done, for users."""


@dataclass(frozen=True)
class RidgeMap:
    """A linear map between two spaces of embeddings, with an offset."""

    weights: Float[Tensor, "old new"]
    old_mean: Float[Tensor, " old"]
    new_mean: Float[Tensor, " new"]
    held_out_cosine: float
    """Mean cosine of mapped and real embeddings of captions that were held out to choose the penalty."""

    def __call__(self, texts: Float[Tensor, "caption old"]) -> Float[Tensor, "caption new"]:
        """Map embeddings."""
        return ((texts.double() - self.old_mean) @ self.weights + self.new_mean).float()


def resolved(how: TextConversion, old_width: int, new_width: int) -> TextConversion:
    """The conversion that ``auto`` stands for."""
    return how if how != "auto" else "as_is" if old_width == new_width else "ridge"


def convert_texts(
    texts: Float[Tensor, "pair old"],
    how: TextConversion,
    old: Float[Tensor, "known old"],
    new: Float[Tensor, "caption new"],
    captions: list[str],
) -> ConvertedTexts:
    """Convert the caption embeddings of a set.

    Args:
        texts: The embeddings of the set.
        how: The way; ``as_is`` needs the same width.
        old: Embeddings of real captions by the text encoder of the set. For ``as_is`` there may be none.
        new: Those of the same captions by the other text encoder.
        captions: The captions.
    """
    way = resolved(how, texts.shape[1], new.shape[1])
    if way == "as_is":
        assert texts.shape[1] == new.shape[1], "checked before"
        return ConvertedTexts(texts, "embeddings as they are")
    if way == "nearest":
        found = nearest_rows(texts, old)
        distinct = len(set(found.tolist()))
        return ConvertedTexts(new[found].clone(), f"embeddings of the nearest real captions, {distinct} different ones")
    fitted = fit_ridge(old, new)
    words = f"a linear map from {len(captions):,} real captions, cosine {fitted.held_out_cosine:.2f} on held-out ones"
    return ConvertedTexts(fitted(texts), words)


def nearest_rows(texts: Float[Tensor, "pair dim"], real: Float[Tensor, "caption dim"]) -> Tensor:
    """The row of ``real`` with the largest cosine to each of ``texts``."""
    return (normalize(texts, dim=1) @ normalize(real, dim=1).T).argmax(1)


def fit_ridge(old: Float[Tensor, "caption old"], new: Float[Tensor, "caption new"]) -> RidgeMap:
    """Fit a linear map by ridge regression, with the penalty that is the best on held-out captions.

    W = (X'X / n + p I)^-1 X'Y / n for centred X and Y, by one eigendecomposition of X'X for all penalties p.
    """
    assert len(old) == len(new) >= _FEWEST_CAPTIONS, "fewer captions than any dataset has"
    held_out = torch.arange(len(old)) % _HELD_OUT == 0
    best, best_penalty = -2.0, _PENALTIES[0]
    fits = _fits(old[~held_out], new[~held_out], _PENALTIES)
    for penalty, fit in zip(_PENALTIES, fits, strict=True):
        cosine = float(cosine_similarity(fit(old[held_out]), new[held_out], dim=1).mean())
        if cosine > best:
            best, best_penalty = cosine, penalty
    (whole,) = _fits(old, new, (best_penalty,))
    return RidgeMap(whole.weights, whole.old_mean, whole.new_mean, best)


def _fits(
    old: Float[Tensor, "caption old"], new: Float[Tensor, "caption new"], penalties: tuple[float, ...]
) -> list[RidgeMap]:
    x, y = old.double(), new.double()
    old_mean, new_mean = x.mean(0), y.mean(0)
    x, y = x - old_mean, y - new_mean
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    projected = vectors.T @ (x.T @ y / len(x))
    scale = float(values.clamp(min=0).mean())
    return [
        RidgeMap(vectors @ (projected / (values.clamp(min=0) + penalty * scale)[:, None]), old_mean, new_mean, 0.0)
        for penalty in penalties
    ]
