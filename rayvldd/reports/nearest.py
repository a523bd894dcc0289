"""The real caption that says in words what a synthetic embedding stands for."""

from dataclasses import dataclass

import numpy as np

from rayvldd.models.problem import SplitInputs

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
    asked = _at_length_one(texts)
    best, index = np.full(len(asked), -np.inf), np.zeros(len(asked), dtype=np.int64)
    for start in range(0, len(train.captions), _CHUNK):
        scores = asked @ _at_length_one(train.captions[start : start + _CHUNK]).T
        nearest = scores.argmax(axis=1)
        score = scores[np.arange(len(asked)), nearest]
        nearer = score > best
        best[nearer], index[nearer] = score[nearer], start + nearest[nearer]
    return [NearestCaption(train.split.captions[i], float(s)) for i, s in zip(index, best, strict=True)]


def _at_length_one(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
