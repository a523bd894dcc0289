"""The real caption that says in words what a synthetic embedding stands for."""

from dataclasses import dataclass

import numpy as np

from rayvldd.models.retrieval_task import SplitInputs

_CHUNK = 65536
"""Captions compared at a time: 65,536 x 768 in float32 are 200 MB."""


@dataclass(frozen=True)
class NearestCaption:
    """A training caption and how near it is."""

    caption: str
    similarity: float
    """Cosine of the angle between the two embeddings."""


def nearest_captions(texts: np.ndarray, train: SplitInputs) -> list[NearestCaption]:
    """The training caption nearest to each embedding by cosine, the first of those that are equally near.

    Args:
        texts: Embeddings [pair, text_dim] in the space of ``train.captions``.
        train: The real captions.
    """
    asked = np.asarray(texts, dtype=np.float32)
    asked = asked / _lengths(asked)[:, None]
    best, index = np.full(len(asked), -np.inf), np.zeros(len(asked), dtype=np.int64)
    for start in range(0, len(train.captions), _CHUNK):
        captions = np.asarray(train.captions[start : start + _CHUNK], dtype=np.float32)
        scores = asked @ captions.T
        scores /= _lengths(captions)  # not the captions, of which a sweep would make a copy at the end of every trial
        nearest = scores.argmax(axis=1)
        score = scores[np.arange(len(asked)), nearest]
        nearer = score > best
        best[nearer], index[nearer] = score[nearer], start + nearest[nearer]
    return [NearestCaption(train.split.captions[i], float(s)) for i, s in zip(index, best, strict=True)]


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), 1e-12)
