"""Fresh students trained on a small set of pairs, synthetic or real, and scored on real data.

Source: Wu et al., section 4.1 and the released ``epoch.py`` (SGD, momentum 0.9, weight decay 5e-4). Deviation: the
released code ignores the learned text step size here; each side takes its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.scoring import score
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.randomness import seeded


@dataclass(frozen=True)
class Pairs:
    """A small set to train students on, and the step sizes to train them with."""

    images: Float[Tensor, "pair 3 height width"]
    """Pixels on the encoder's normalised scale."""
    texts: Float[Tensor, "pair text_dim"]
    """Caption embeddings."""
    lr_image: float
    """Student rate of the image side."""
    lr_text: float
    """Student rate of the text side."""
    similarity: Float[Tensor, "pair pair"] | None = None
    """How much image i and text j belong together; None where only i = j do."""
    pair_loss: str = "info_nce"
    """What students minimise, a name of ``PAIR_LOSSES``."""


def evaluate_pairs(
    task: RetrievalTask, pairs: Pairs, inputs: SplitInputs, seeds: Sequence[int]
) -> list[RetrievalMetrics]:
    """Train one fresh student a seed on ``pairs`` and score each on ``inputs``.

    What the frozen part makes of the images is computed once for all students.
    """
    with torch.no_grad():
        frozen_output = task.model.frozen_part(pairs.images.to(task.device))
    return [score(task, train_student(task, pairs, frozen_output, seed), inputs) for seed in seeds]


def train_student(task: RetrievalTask, pairs: Pairs, frozen_output: Float[Tensor, "pair ..."], seed: int) -> Parameters:
    """Train a fresh student on a small set; ``seed`` decides its initialisation, batches and dropout."""
    settings, model = task.study.evaluation, task.model
    initial = model.initial_parameters(seed)
    image, text = (side.to(task.device).clone().requires_grad_() for side in initial)
    texts = pairs.texts.to(task.device)
    similarity = None if pairs.similarity is None else pairs.similarity.to(task.device)
    optimiser = torch.optim.SGD(
        [{"params": [image], "lr": pairs.lr_image}, {"params": [text], "lr": pairs.lr_text}],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    model.train()
    with seeded(seed):
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(texts)).split(settings.batch_size):
                if len(chosen) < 2:  # one pair has nothing to be told apart from
                    continue
                loss = model.loss(
                    Parameters(image, text),
                    frozen_output[chosen],
                    texts[chosen],
                    similarity=None if similarity is None else similarity[chosen][:, chosen],
                    pair_loss=pairs.pair_loss,
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    model.train(False)
    return Parameters(image.detach(), text.detach())
