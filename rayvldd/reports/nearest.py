"""The nearest real caption of a synthetic text embedding."""

from dataclasses import dataclass

import numpy as np

from rayvldd.models.retrieval_task import SplitInputs

_CHUNK = 65536
"""Captions per chunk: 65,536 x 768 in float32 are 200 MB."""


@dataclass(frozen=True)
class SimilarCaption:
    """A training caption and its similarity to an embedding."""

    caption: str
    similarity: float
    """Cosine of the angle between the two embeddings."""


def nearest_captions(texts: np.ndarray, train: SplitInputs) -> list[SimilarCaption]:
    """The training caption with the largest cosine similarity to each embedding; the first one in a tie.

    Args:
        texts: Embeddings [pair, text_dim] in the space of ``train.caption_embeddings``.
        train: The real captions.
    """
    queries = np.asarray(texts, dtype=np.float32)
    queries = queries / _lengths(queries)[:, None]
    best, index = np.full(len(queries), -np.inf), np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(train.caption_embeddings), _CHUNK):
        captions = np.asarray(train.caption_embeddings[start : start + _CHUNK], dtype=np.float32)
        scores = queries @ captions.T
        scores /= _lengths(captions)  # normalising the captions instead would copy them at the end of every trial
        nearest = scores.argmax(axis=1)
        score = scores[np.arange(len(queries)), nearest]
        nearer = score > best
        best[nearer], index[nearer] = score[nearer], start + nearest[nearer]
    return [SimilarCaption(train.split.captions[i], float(s)) for i, s in zip(index, best, strict=True)]


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), 1e-12)
