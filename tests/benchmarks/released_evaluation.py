"""Evaluation as the released code of Wu et al. does it (``epoch.py``): the other side of the ratios in evaluation.py.

The whole matrix of scores, every row sorted, the right answers looked for in it; and a frozen backbone that sees every
image again in each epoch of each student. Students and loss are those of this project, so that both sides end with the
same numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rayvldd.config.settings import EvaluationSettings
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.students import Pairs
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.randomness import seeded

_TEST_BATCH = 100
"""Images that the backbone takes at a time while a student is tested."""


def released_recall(images: Tensor, captions: Tensor, caption_image: np.ndarray) -> RetrievalMetrics:
    """Recall by sorting each image's and each caption's row of the score matrix."""
    scores = (images @ captions.T).numpy()
    captions_of = [np.flatnonzero(caption_image == image) for image in range(len(images))]
    to_text = [_first_place(row, captions_of[image]) for image, row in enumerate(scores)]
    to_image = [_first_place(row, [caption_image[caption]]) for caption, row in enumerate(scores.T)]
    both = (np.array(to_text), np.array(to_image))
    return RetrievalMetrics(*[100 * float((places < k).mean()) for places in both for k in (1, 5, 10)])


def _first_place(scores: np.ndarray, right: Sequence[int] | np.ndarray) -> int:
    """Number of items before the first right answer of the sorted row."""
    order = np.argsort(scores)[::-1]
    return min(int(np.where(order == answer)[0][0]) for answer in right)


def released_students(
    task: RetrievalTask, pairs: Pairs, inputs: SplitInputs, settings: EvaluationSettings, seeds: Sequence[int]
) -> list[float]:
    """Mean recall of one fresh student a seed, the backbone in every pass."""
    recalls = []
    for seed in seeds:
        student = _train(task, pairs, settings, seed)
        with torch.no_grad():
            embedded = []
            for start in range(0, inputs.num_images, _TEST_BATCH):
                index = np.arange(start, min(start + _TEST_BATCH, inputs.num_images))
                features = task.model.frozen_part(task.pixels(inputs, index))
                embedded.append(task.model.embed_images(features, student.image))
            captions = task.model.embed_texts(
                task.texts(inputs, np.arange(len(inputs.caption_embeddings))), student.text
            )
        recalls.append(released_recall(torch.cat(embedded), captions, inputs.split.caption_image).mean_recall)
    return recalls


def _train(task: RetrievalTask, pairs: Pairs, settings: EvaluationSettings, seed: int) -> Parameters:
    """A student on the pixels of the pairs: as ``train_student``, without features kept from one epoch to the next."""
    model = task.model
    image, text = (side.clone().requires_grad_() for side in model.initial_parameters(seed))
    optimiser = torch.optim.SGD(
        [{"params": [image], "lr": pairs.lr_image}, {"params": [text], "lr": pairs.lr_text}],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    model.train()
    with seeded(seed):
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(pairs.texts)).split(settings.batch_size):
                with torch.no_grad():
                    features = model.frozen_part(pairs.images[chosen])
                loss = model.loss(Parameters(image, text), features, pairs.texts[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    model.train(False)
    return Parameters(image.detach(), text.detach())
