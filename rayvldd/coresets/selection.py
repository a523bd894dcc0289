"""Select a coreset of real pairs: at random, or by herding, k-centre, k-means, prototypes or forgetting events.

Herding, k-centre and k-means use one joint feature per pair: the image feature and the caption embedding, each scaled
to length 1 and concatenated (Wu et al., section 4.1, compare on pretrained features of both modalities). Image features
are the outputs of the frozen image encoder, under every protocol.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayvldd.coresets.forgetting import by_forgetting
from rayvldd.coresets.prototypes import Prototypes, prototypes
from rayvldd.errors import ConfigError, Fault
from rayvldd.evaluation.students import Pairs
from rayvldd.experts.recipe import ExpertTraining
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import coreset_generator

METHODS = ("random", "herding", "k_center", "k_means", "prototypes", "forgetting", "forgetting_most")
"""``prototypes`` pairs real images with mean texts (PDS); ``forgetting`` keeps the least forgotten pairs (Wu et al.),
``forgetting_most`` the most (Toneva et al.)."""

NESTED_METHODS = tuple(method for method in METHODS if method not in ("k_means", "prototypes"))
"""Methods whose selection of n pairs begins with their selection of fewer pairs, so the largest contains all."""


@dataclass(frozen=True)
class Coreset:
    """Real training pairs by their indexes, in the order in which they were chosen."""

    image_index: Int[np.ndarray, " pair"]
    caption_index: Int[np.ndarray, " pair"]
    texts: Float[np.ndarray, "pair text_dim"] | None = None
    """Embeddings in place of those of the captions, which are then the real ones nearest to them."""

    def pairs(self, task: RetrievalTask, lr: float) -> Pairs:
        """Return the pairs for students, with this learning rate on both sides."""
        return Pairs(task.pixels(task.train, self.image_index), self.embeddings(task), lr, lr)

    def embeddings(self, task: RetrievalTask) -> Float[Tensor, "pair text_dim"]:
        """Return the text embeddings, on the device."""
        if self.texts is None:
            return task.texts(task.train, self.caption_index)
        return torch.tensor(self.texts, device=task.device)  # a copy: arrays of other processes are read-only

    def first(self, count: int) -> "Coreset":
        """Return the first pairs; for ``NESTED_METHODS`` they are the coreset of that size."""
        texts = None if self.texts is None else self.texts[:count]
        return Coreset(self.image_index[:count], self.caption_index[:count], texts)

    def captions(self, task: RetrievalTask) -> list[str]:
        """Return the caption texts."""
        return [task.train.split.captions[index] for index in self.caption_index]


def choose_coreset(
    task: RetrievalTask, method: str, num_pairs: int, seed: int, training: ExpertTraining | None = None
) -> Coreset:
    """Select ``num_pairs`` training pairs from different images; the caption is drawn from those of the image.

    Under ``prototypes`` the text of a pair is the mean of a cluster of captions.

    Args:
        task: Model and data.
        method: One of ``METHODS``.
        num_pairs: Number of pairs.
        seed: Seed of the selection.
        training: Training settings of the expert for ``forgetting`` and ``forgetting_most``; otherwise not used.

    Raises:
        ConfigError: when the method is unknown or there are fewer training images than pairs.
        DivergedError: when the expert that ``forgetting`` trains diverges.
    """
    faults = []
    if method not in METHODS:
        faults.append(Fault("method", f"no coreset method {method!r}", ", ".join(METHODS)))
    if not 2 <= num_pairs <= task.train.num_images:
        faults.append(Fault("num_pairs", f"got {num_pairs}", f"2 to {task.train.num_images}, the training images"))
    if faults:
        raise ConfigError(faults, next_command="rayvldd coreset --help")
    generator = coreset_generator(seed)
    captions = _one_caption_an_image(task.train.split.caption_image, generator)
    if method == "prototypes":
        found = _prototypes(task, num_pairs, captions, seed)
        return Coreset(found.image_index, captions[found.text_index], found.texts)
    chosen = _choose(task, method, num_pairs, captions, seed, generator, training)
    return Coreset(chosen, captions[chosen])


def _choose(
    task: RetrievalTask,
    method: str,
    num_pairs: int,
    captions: Int[np.ndarray, " image"],
    seed: int,
    generator: np.random.Generator,
    training: ExpertTraining | None,
) -> Int[np.ndarray, " chosen"]:
    """Select images, each with its given caption."""
    if method == "random":
        return generator.permutation(len(captions))[:num_pairs]
    if method in ("forgetting", "forgetting_most"):
        assert training is not None, f"{method} trains an expert"
        order = by_forgetting(task, training, captions, seed, generator)
        return (order if method == "forgetting" else order[::-1].copy())[:num_pairs]
    key = method, num_pairs, seed, tuple(task.fingerprints.values())  # the seed also determines the captions
    if key not in _chosen_before:
        features = joint_features(task, captions)
        if method == "k_means":
            _chosen_before[key] = k_means(features, num_pairs, seed)
        else:
            _chosen_before[key] = (herding if method == "herding" else k_center)(features, num_pairs)
    return _chosen_before[key]


_chosen_before: dict[tuple[str, int, int, tuple[str, ...]], Int[np.ndarray, " chosen"]] = {}
"""Selections by features in this process: the trials of a study share one seed, and k-means is slow."""


def _prototypes(task: RetrievalTask, num_pairs: int, captions: Int[np.ndarray, " image"], seed: int) -> Prototypes:
    """Return the prototypes of the training images, each with its given caption."""
    key = num_pairs, seed, tuple(task.fingerprints.values())
    if key not in _prototypes_before:
        _prototypes_before[key] = prototypes(
            _image_features(task), task.train.caption_embeddings[captions], num_pairs, seed
        )
    return _prototypes_before[key]


_prototypes_before: dict[tuple[int, int, tuple[str, ...]], Prototypes] = {}
"""Prototypes in this process, for the reason of ``_chosen_before``."""


def herding(features: Float[np.ndarray, "pair dim"], count: int) -> Int[np.ndarray, " chosen"]:
    """Greedily add the sample that brings the mean of the subset closest to the mean of all samples.

    Welling, "Herding Dynamical Weights to Learn" (ICML 2009), as iCaRL uses it.
    """
    mean, total = features.mean(0), np.zeros(features.shape[1], features.dtype)
    squared, free = (features**2).sum(1), np.ones(len(features), dtype=bool)
    chosen = np.empty(count, dtype=np.int64)
    for step in range(count):
        # |mean - (total + x) / n|^2 increases with |x|^2 - 2 x.(n mean - total): the other terms do not depend on x
        cost = squared - 2 * features @ ((step + 1) * mean - total)
        chosen[step] = np.where(free, cost, np.inf).argmin()
        free[chosen[step]] = False
        total += features[chosen[step]]
    return chosen


def k_center(features: Float[np.ndarray, "pair dim"], count: int) -> Int[np.ndarray, " chosen"]:
    """Greedily add the sample farthest from all selected ones, beginning with the sample nearest to the mean.

    Sener and Savarese, "Active Learning for Convolutional Neural Networks" (arXiv 1708.00489), algorithm 1.
    """
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = ((features - features.mean(0)) ** 2).sum(1).argmin()
    distance = ((features - features[chosen[0]]) ** 2).sum(1)
    for step in range(1, count):
        distance[chosen[step - 1]] = -np.inf  # a distance of 0 would not distinguish it from its duplicates
        chosen[step] = distance.argmax()
        distance = np.minimum(distance, ((features - features[chosen[step]]) ** 2).sum(1))
    return chosen


def k_means(features: Float[np.ndarray, "pair dim"], count: int, seed: int) -> Int[np.ndarray, " chosen"]:
    """Select the sample nearest to the centre of each of ``count`` clusters, largest cluster first, without repetition.

    Uses k-means++ and Lloyd's algorithm of scikit-learn, with one initialisation from ``seed``. MDM initialises its
    synthetic images in this way.

    Args:
        features: One row for each sample.
        count: Number of clusters and of selected samples, at most the number of rows.
        seed: Seed of the initialisation.
    """
    from sklearn.cluster import KMeans  # slow import that only this method needs
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different samples than clusters: some are empty
        clusters = KMeans(count, n_init=1, random_state=seed).fit(features)
    sizes = np.bincount(clusters.labels_, minlength=count)
    chosen = np.empty(count, dtype=np.int64)
    free = np.ones(len(features), dtype=bool)
    for step, cluster in enumerate(np.argsort(-sizes, kind="stable")):
        distance = ((features - clusters.cluster_centers_[cluster]) ** 2).sum(1)
        chosen[step] = np.where(free, distance, np.inf).argmin()
        free[chosen[step]] = False
    return chosen


def joint_features(task: RetrievalTask, captions: Int[np.ndarray, " image"]) -> Float[np.ndarray, "image dim"]:
    """Return one feature per training image and its given caption: both modalities at length 1, concatenated."""
    images = _image_features(task)
    texts = task.train.caption_embeddings[captions]
    sides = [side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (images, texts)]
    return np.concatenate(sides, axis=1)


@torch.no_grad()
def _image_features(task: RetrievalTask) -> Float[np.ndarray, "image dim"]:
    if task.model.encoder_is_frozen:
        return np.asarray(task.train.images)
    image = task.model.initial_parameters(0).image  # new adapters are the identity: their second factor is zero
    parts = np.array_split(np.arange(task.train.num_images), max(1, task.train.num_images // 128))
    return np.concatenate([task.model.encode(task.pixels(task.train, part), image).cpu().numpy() for part in parts])


def _one_caption_an_image(
    caption_image: Int[np.ndarray, " caption"], generator: np.random.Generator
) -> Int[np.ndarray, " image"]:
    order = generator.permutation(len(caption_image))
    _, first = np.unique(caption_image[order], return_index=True)
    return order[first]
