"""Prototypes: images and texts clustered apart, clusters matched one to one, and one pair for each couple.

A couple's image is the real image nearest the image cluster's centre. Its text is the mean embedding of the text
cluster, scaled to the mean length of the real embeddings.

Source: PDS (arXiv 2602.19756, ICLR 2026): the Hungarian method matches clusters by the number of real pairs that they
share. Deviations: clusters are those of features of length 1, and one caption of each image takes part, as in the other
selections by features.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_TINY = 1e-12


class Prototypes(NamedTuple):
    """One pair for each couple of clusters, those that share most pairs first."""

    image_index: Int[np.ndarray, " couple"]
    """Real image nearest each image cluster's centre; all are different."""
    text_index: Int[np.ndarray, " couple"]
    """Item whose text is nearest each text cluster's mean."""
    texts: Float[np.ndarray, "couple text_dim"]
    """Mean text of each text cluster, at the mean length of all texts."""


def prototypes(
    images: Float[np.ndarray, "item image_dim"], texts: Float[np.ndarray, "item text_dim"], count: int, seed: int
) -> Prototypes:
    """Return ``count`` couples of an image and a mean text.

    Args:
        images: Image features.
        texts: Caption embeddings; row i belongs to row i of ``images``.
        count: Number of couples.
        seed: Seed of both clusterings.
    """
    from scipy.optimize import linear_sum_assignment  # slow, and only needed here

    unit_images, unit_texts = unit_rows(images), unit_rows(texts)
    of_image, image_centres = _clusters(unit_images, count, seed)
    of_text, _ = _clusters(unit_texts, count, seed)
    shared = np.zeros((count, count), dtype=np.int64)
    np.add.at(shared, (of_image, of_text), 1)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    order = np.argsort(-shared[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    means = np.stack([_mean_text(texts, of_text == column) for column in columns])
    length = float(np.linalg.norm(texts, axis=1).mean())
    text_index = (unit_rows(means) @ unit_texts.T).argmax(axis=1)
    return Prototypes(nearest_of(unit_images, image_centres[rows]), text_index, unit_rows(means) * length)


def nearest_of(
    features: Float[np.ndarray, "item dim"], centres: Float[np.ndarray, "couple dim"]
) -> Int[np.ndarray, " couple"]:
    """Return the item nearest each centre that no earlier centre has."""
    free, chosen = np.ones(len(features), dtype=bool), np.empty(len(centres), dtype=np.int64)
    for step, centre in enumerate(centres):
        chosen[step] = np.where(free, ((features - centre) ** 2).sum(1), np.inf).argmin()
        free[chosen[step]] = False
    return chosen


def unit_rows(rows: Float[np.ndarray, "item dim"]) -> Float[np.ndarray, "item dim"]:
    """Return the rows at length 1; a row of zeros stays zero."""
    scaled: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
    return scaled


def _mean_text(texts: Float[np.ndarray, "item text_dim"], inside: np.ndarray) -> Float[np.ndarray, " text_dim"]:
    """Return the mean text of a cluster; of an empty one, which equal texts can leave, the mean of all."""
    mean: np.ndarray = texts[inside].mean(0) if inside.any() else texts.mean(0)
    return mean


def _clusters(
    features: Float[np.ndarray, "item dim"], count: int, seed: int
) -> tuple[Int[np.ndarray, " item"], Float[np.ndarray, "cluster dim"]]:
    """Return each item's cluster and the clusters' centres."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different samples than clusters: some are empty
        fitted = KMeans(count, n_init=1, random_state=seed).fit(features)
    return fitted.labels_.astype(np.int64), fitted.cluster_centers_
