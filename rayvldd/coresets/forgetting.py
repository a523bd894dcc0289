"""Count how often each training pair is forgotten during the training of an expert, for the coreset ``forgetting``.

Source: Toneva et al., "An Empirical Study of Example Forgetting" (arXiv 1812.05159), who keep the most forgotten
examples; Wu et al., section 4.1, keep the least forgotten pairs. Neither defines forgetting for retrieval. Here

- a pair (an image and one caption of it, the same one throughout) is *right* after an epoch when, in its group, the
  caption scores highest of all for the image and the image highest of all for the caption. Groups are batches
  of ``experts.batch_size`` pairs, drawn once from the seed, so that only the model changes between epochs and not the
  group. A tie does not count: of two pairs with the same caption in one group neither is ever right;
- a *forgetting event* is a pair that was right after one epoch and is not after the next;
- a pair that was never right counts as forgotten more often than any other, as in Toneva et al.

Deviations: Toneva et al. evaluate an example when its batch is trained, with parameters that change within the epoch;
here all pairs are evaluated after every epoch with the parameters of that epoch, without dropout. The few epochs of an
expert distinguish fewer counts than their 200 epochs of a classifier: pairs with equal counts are ordered at random,
from the seed.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayvldd.experts.recipe import ExpertTraining
from rayvldd.experts.training import train_expert
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask


def by_forgetting(
    task: RetrievalTask,
    training: ExpertTraining,
    captions: Int[np.ndarray, " image"],
    seed: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, " image"]:
    """Train an expert and order all training images, the least forgotten first.

    Args:
        task: Model and data.
        training: Training settings of the expert.
        captions: Caption that represents each image.
        seed: Number of the expert, which is not used for other experts.
        generator: Draws the groups and the order of pairs with equal counts.

    Raises:
        DivergedError: when the expert's loss is not finite.
    """
    trajectory, _ = train_expert(task, training, seed)
    groups = _groups(generator.permutation(len(captions)), training.settings.batch_size)
    epochs = range(1, trajectory.num_epochs + 1)
    right = np.stack([_right(task, trajectory[epoch], captions, groups) for epoch in epochs])
    chance = generator.permutation(len(captions))
    return np.lexsort((chance, forgetting_events(right)))


def forgetting_events(right: Bool[np.ndarray, "epoch pair"]) -> Int[np.ndarray, " pair"]:
    """Count for each pair the changes from right to wrong; a pair that was never right gets a larger number."""
    events = (right[:-1] & ~right[1:]).sum(axis=0)
    return np.where(right.any(axis=0), events, len(right))


def first_both_ways(
    images: Float[Tensor, "pair dim"], captions: Float[Tensor, "pair dim"]
) -> Bool[np.ndarray, " pair"]:
    """Whether image i and caption i score above all other captions and all other images; a tie does not count."""
    scores = images @ captions.T
    own = scores.diagonal()
    not_below = ~(scores < own[:, None]), ~(scores < own[None, :])  # NaN scores are not below
    return (not_below[0].sum(1) + not_below[1].sum(0) == 2).cpu().numpy()  # only the pair itself, in both directions


def _groups(order: Int[np.ndarray, " pair"], size: int) -> list[np.ndarray]:
    """Split into groups of nearly equal size, at most ``size``, because ranking first is easier in small groups."""
    return np.array_split(order, -(-len(order) // size))


@torch.no_grad()
def _right(
    task: RetrievalTask, parameters: Parameters, captions: Int[np.ndarray, " image"], groups: list[np.ndarray]
) -> Bool[np.ndarray, " image"]:
    model = task.model.train(False)
    image_parameters, text_parameters = (side.to(task.device) for side in parameters)
    right = np.zeros(len(captions), dtype=bool)
    for group in groups:
        images = model.embed_images(task.frozen_outputs(task.train, group), image_parameters)
        right[group] = first_both_ways(
            images, model.embed_texts(task.texts(task.train, captions[group]), text_parameters)
        )
    return right
