"""Train fresh students on a small set of synthetic or real pairs, and score them on real data.

Source: Wu et al., section 4.1 and the released ``epoch.py`` (SGD, momentum 0.9, weight decay 5e-4). Deviation: the
released code ignores the learned text step size here; this code uses the step size of each side. The released code cuts
the rates by ten at half of the epochs, as ``learning_rate_decay: step`` does; by default they are constant.

Students of sets in order: the phases of PTM-ST (arXiv 2603.25388). Deviations from its released ``epoch.py``, where one
optimiser serves all phases with the learned rates of the last one, which fall to a tenth at half of the first phase:
here each set has its own rates and a new optimiser, and the student after the last epoch counts, not the best on test.
In progressive dataset distillation (PDD, arXiv 2310.06982) students train on the union of the sets so far.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rayvldd.config.settings import EvaluationSettings
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.scoring import score
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.randomness import seeded
from rayvldd.training.sgd import SgdSettings, TrainingBatch, train_on_batches
from rayvldd.training.stacked import StackedBatch, train_stacked


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

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""
        return len(self.texts)


@dataclass(frozen=True)
class PairsInOrder:
    """Training sets that students are trained on one after another.

    Every set is trained on for ``EvaluationSettings.epochs`` epochs, with its own step sizes, similarity and loss. A
    student keeps its parameters from one set to the next. Its optimiser is new: the momentum begins at zero, and
    the course of ``learning_rate_decay`` at its first step.
    """

    parts: Sequence[Pairs]
    """The sets in the order of training."""

    @property
    def num_pairs(self) -> int:
        """Number of pairs of all sets."""
        return sum(part.num_pairs for part in self.parts)


TrainingPairs = Pairs | PairsInOrder
"""What students of pairs are trained on."""

_Part = tuple[Pairs, Float[Tensor, "..."]]
"""A training set, and the output of the frozen part for its images; the number of pairs differs between parts."""


def evaluate_pairs(
    task: RetrievalTask, pairs: TrainingPairs, inputs: SplitInputs, settings: EvaluationSettings, seeds: Sequence[int]
) -> list[RetrievalMetrics]:
    """Train one new student for each seed on ``pairs`` and score each on ``inputs``.

    The output of the frozen part for the images is computed once for all students.

    Args:
        task: Model and data.
        pairs: The training set of the students, or several in order.
        inputs: The split for scoring.
        settings: Epochs, batch size and SGD settings of the students.
        seeds: One seed for each student.

    Returns:
        The recalls of each student in percent, in the order of the seeds.
    """
    return [score(task, student, inputs) for student in train_students(task, pairs, settings, seeds)]


def train_students(
    task: RetrievalTask, pairs: TrainingPairs, settings: EvaluationSettings, seeds: Sequence[int]
) -> Iterator[Parameters]:
    """Yield one new student per seed, trained on ``pairs`` on demand; arguments as in :func:`evaluate_pairs`.

    On a GPU the students of a frozen encoder are trained in one pass. Others are trained one after another: the images
    of all of them may not fit. On a CPU the pass saves nothing, and results keep every digit.
    """
    sets = pairs.parts if isinstance(pairs, PairsInOrder) else [pairs]
    with torch.no_grad():
        parts = [(one, task.model.laid_out(task.model.frozen_part(one.images.to(task.device)))) for one in sets]
    in_one_pass = task.device.type != "cpu" and task.model.encoder_is_frozen and task.model.settings.can_be_stacked
    if len(seeds) > 1 and in_one_pass:
        yield from _train_stacked_in_order(task, parts, settings, seeds)
        return
    for seed in seeds:
        yield _train_in_order(task, parts, settings, seed)


def train_students_stacked(
    task: RetrievalTask,
    pairs: Pairs,
    frozen_output: Float[Tensor, "pair ..."],
    settings: EvaluationSettings,
    seeds: Sequence[int],
) -> list[Parameters]:
    """Train one new student per seed in one pass; arguments as in :func:`train_student`, without dropout."""
    return _train_stacked_in_order(task, [(pairs, frozen_output)], settings, seeds)


def _train_stacked_in_order(
    task: RetrievalTask, parts: Sequence[_Part], settings: EvaluationSettings, seeds: Sequence[int]
) -> list[Parameters]:
    students = [task.model.initial_parameters(seed) for seed in seeds]
    drawn: list[list[Tensor]] = []
    for seed in seeds:
        with seeded(seed):
            drawn.append(
                [torch.stack([torch.randperm(one.num_pairs) for _ in range(settings.epochs)]) for one, _ in parts]
            )
    for (pairs, frozen_output), of_part in zip(parts, zip(*drawn, strict=True), strict=True):
        orders = torch.stack(of_part, dim=1).to(task.device)  # of all epochs and students, in one copy
        students = _train_stacked_on(task, students, pairs, frozen_output, settings, orders)
    return students


def _train_stacked_on(
    task: RetrievalTask,
    students: Sequence[Parameters],
    pairs: Pairs,
    frozen_output: Float[Tensor, "pair ..."],
    settings: EvaluationSettings,
    orders: Int64[Tensor, "epoch student pair"],
) -> list[Parameters]:
    texts = pairs.texts.to(task.device)
    similarity = None if pairs.similarity is None else pairs.similarity.to(task.device)

    def batches() -> Iterator[StackedBatch]:
        for epoch in orders:
            for chosen in epoch.split(settings.batch_size, dim=1):
                if chosen.shape[1] > 1:  # a contrastive loss needs two pairs
                    part = None if similarity is None else similarity[chosen[:, :, None], chosen[:, None]]
                    yield StackedBatch(frozen_output[chosen], texts[chosen], part)

    rates, graphs = _rates(pairs, settings), task.has_step_graphs
    trained, _ = train_stacked(task.model, students, batches(), rates, pairs.pair_loss, graphs)
    return trained


def _rates(pairs: Pairs, settings: EvaluationSettings) -> SgdSettings:
    steps, decay = settings.student_steps(pairs.num_pairs), settings.learning_rate_decay
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
    return _train_in_order(task, [(pairs, frozen_output)], settings, seed)


def _train_in_order(task: RetrievalTask, parts: Sequence[_Part], settings: EvaluationSettings, seed: int) -> Parameters:
    """Train a new student on all parts; on the first one it is trained as it would be on this part alone."""
    student = task.model.initial_parameters(seed)
    with seeded(seed):
        for pairs, frozen_output in parts:
            student = _train_on(task, student, pairs, frozen_output, settings)
    return student


def _train_on(
    task: RetrievalTask,
    student: Parameters,
    pairs: Pairs,
    frozen_output: Float[Tensor, "pair ..."],
    settings: EvaluationSettings,
) -> Parameters:
    texts = pairs.texts.to(task.device)
    similarity = None if pairs.similarity is None else pairs.similarity.to(task.device)

    def batches() -> Iterator[TrainingBatch]:
        for _ in range(settings.epochs):
            for chosen in torch.randperm(pairs.num_pairs).split(settings.batch_size):
                if len(chosen) > 1:  # a contrastive loss needs two pairs
                    part = None if similarity is None else similarity[chosen][:, chosen]
                    yield TrainingBatch(frozen_output[chosen], texts[chosen], part)

    rates, graphs = _rates(pairs, settings), task.has_step_graphs
    trained, _ = train_on_batches(task.model, student, batches(), rates, pairs.pair_loss, graphs)
    return trained


def mean_of(scores: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    """Return the mean of each recall over students."""
    return RetrievalMetrics(*np.mean([list(vars(score).values()) for score in scores], axis=0).tolist())
