"""Train fresh students on a small set of synthetic or real pairs, and score them on real data.

Source: Wu et al., section 4.1 and the released ``epoch.py`` (SGD, momentum 0.9, weight decay 5e-4). Deviation: the
released code ignores the learned text step size here; this code uses the step size of each side. The released code cuts
the rates by ten at half of the epochs; here they are constant, or fall by a cosine (``learning_rate_decay``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.settings import EvaluationSettings
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.scoring import score
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.randomness import seeded
from rayvldd.training.sgd import SgdSettings, TrainingBatch, train_on_batches
from rayvldd.training.stacked import StackedBatch, can_be_stacked, train_stacked


@dataclass(frozen=True)
class Pairs:
    """Training set of students with their step sizes."""

    images: Float[Tensor, "pair 3 height width"]
    """Pixels on the encoder's normalised scale."""
    texts: Float[Tensor, "pair text_dim"]
    """Caption embeddings."""
    lr_image: float
    """Learning rate of the image side."""
    lr_text: float
    """Learning rate of the text side."""
    similarity: Float[Tensor, "pair pair"] | None = None
    """Similarity of image i and text j; None for the identity."""
    pair_loss: str = "info_nce"
    """Loss of students, a name in ``PAIR_LOSSES``."""


def evaluate_pairs(
    task: RetrievalTask, pairs: Pairs, inputs: SplitInputs, settings: EvaluationSettings, seeds: Sequence[int]
) -> list[RetrievalMetrics]:
    """Train one new student for each seed on ``pairs`` and score each on ``inputs``.

    The output of the frozen part for the images is computed once for all students.

    Args:
        task: Model and data.
        pairs: The training set of the students.
        inputs: The split for scoring.
        settings: Epochs, batch size and SGD settings of the students.
        seeds: One seed for each student.

    Returns:
        The recalls of each student in percent, in the order of the seeds.
    """
    return [score(task, student, inputs) for student in train_students(task, pairs, settings, seeds)]


def train_students(
    task: RetrievalTask, pairs: Pairs, settings: EvaluationSettings, seeds: Sequence[int]
) -> Iterator[Parameters]:
    """Yield one new student per seed, trained on ``pairs`` on demand; arguments as in :func:`evaluate_pairs`.

    On a GPU the students of a frozen encoder are trained in one pass. Others are trained one after another: the images
    of all of them may not fit. On a CPU the pass saves nothing, and results keep every digit.
    """
    with torch.no_grad():
        frozen_output = task.model.frozen_part(pairs.images.to(task.device))
    in_one_pass = task.device.type != "cpu" and task.model.encoder_is_frozen and can_be_stacked(task.model.settings)
    if len(seeds) > 1 and in_one_pass:
        yield from train_students_stacked(task, pairs, frozen_output, settings, seeds)
        return
    for seed in seeds:
        yield train_student(task, pairs, frozen_output, settings, seed)


def train_students_stacked(
    task: RetrievalTask,
    pairs: Pairs,
    frozen_output: Float[Tensor, "pair ..."],
    settings: EvaluationSettings,
    seeds: Sequence[int],
) -> list[Parameters]:
    """Train one new student per seed in one pass; arguments as in :func:`train_student`, without dropout."""
    initial = [task.model.initial_parameters(seed) for seed in seeds]
    texts = pairs.texts.to(task.device)
    similarity = None if pairs.similarity is None else pairs.similarity.to(task.device)
    drawn = []
    for seed in seeds:
        with seeded(seed):
            drawn.append(torch.stack([torch.randperm(len(texts)) for _ in range(settings.epochs)]))
    orders = torch.stack(drawn, dim=1).to(task.device)  # of all epochs and students, in one copy

    def batches() -> Iterator[StackedBatch]:
        for epoch in orders:
            for chosen in epoch.split(settings.batch_size, dim=1):
                if chosen.shape[1] > 1:  # a contrastive loss needs two pairs
                    part = None if similarity is None else similarity[chosen[:, :, None], chosen[:, None]]
                    yield StackedBatch(frozen_output[chosen], texts[chosen], part)

    trained, _ = train_stacked(task.model, initial, batches(), _rates(pairs, settings), pairs.pair_loss)
    return trained


def _rates(pairs: Pairs, settings: EvaluationSettings) -> SgdSettings:
    sizes = [len(part) for part in torch.arange(len(pairs.texts)).split(settings.batch_size)]
    steps = settings.epochs * sum(size > 1 for size in sizes)
    decay = settings.learning_rate_decay
    return SgdSettings(pairs.lr_image, pairs.lr_text, settings.momentum, settings.weight_decay, decay, steps)


def train_student(
    task: RetrievalTask,
    pairs: Pairs,
    frozen_output: Float[Tensor, "pair ..."],
    settings: EvaluationSettings,
    seed: int,
) -> Parameters:
    """Train a new student on a small set and return its parameters.

    Args:
        task: Model and data.
        pairs: The training set.
        frozen_output: Output of the frozen part for the images of ``pairs``.
        settings: Epochs, batch size and SGD settings.
        seed: Seed of initialisation, batches and dropout.
    """
    initial = task.model.initial_parameters(seed)
    texts = pairs.texts.to(task.device)
    similarity = None if pairs.similarity is None else pairs.similarity.to(task.device)

    def batches() -> Iterator[TrainingBatch]:
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(texts)).split(settings.batch_size):
                if len(chosen) > 1:  # a contrastive loss needs two pairs
                    part = None if similarity is None else similarity[chosen][:, chosen]
                    yield TrainingBatch(frozen_output[chosen], texts[chosen], part)

    with seeded(seed):
        trained, _ = train_on_batches(task.model, initial, batches(), _rates(pairs, settings), pairs.pair_loss)
    return trained


def mean_of(scores: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    """Return the mean of each recall over students."""
    return RetrievalMetrics(*np.mean([list(vars(score).values()) for score in scores], axis=0).tolist())
