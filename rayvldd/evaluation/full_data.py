"""Train models on all real pairs, for the full-data bound.

The bound is the recall that a user reaches with all pairs. Therefore it is trained by the best of a few recipes on
validation, and not by the recipe of the experts, which is SGD without momentum at a constant rate.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np

from rayvldd.config.settings import EvaluationSettings
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import SEED_END, Stream, generator_of, seeded
from rayvldd.records.full_data import FullDataRecipe
from rayvldd.training.sgd import SgdSettings, TrainingBatch, train_on_batches


def recipes_of(settings: EvaluationSettings) -> list[FullDataRecipe]:
    """Return the recipes of a study's grid, at least one; weight decay is that of the students."""
    grid = settings.full_data
    lists = (grid.learning_rates, grid.momentums, grid.decays, grid.batch_sizes, grid.epochs)
    return [
        FullDataRecipe(
            learning_rate=rate,
            momentum=momentum,
            weight_decay=settings.weight_decay,
            decay=decay,
            batch_size=batch_size,
            epochs=epochs,
            captions_per_image=grid.captions_per_image,
        )
        for rate, momentum, decay, batch_size, epochs in product(*lists)
    ]


def train_on_all(
    task: RetrievalTask,
    recipe: FullDataRecipe,
    study_seed: int,
    seed: int,
    on_epoch: Callable[[int], None] | None = None,
) -> Parameters:
    """Train a new model on all real training pairs.

    Args:
        task: Model and data.
        recipe: Settings of the training.
        study_seed: Seed of the study.
        seed: Seed of the model; its random numbers are independent of those of experts.
        on_epoch: Called at the start of each epoch with the number of finished ones.

    Returns:
        The parameters; they are not finite if the training diverged.
    """
    generator = generator_of(study_seed, Stream.FULL_DATA, seed)
    initial = task.model.initial_parameters(int(generator.integers(SEED_END)))
    caption_image = task.train.split.caption_image
    count = len(np.unique(caption_image)) if recipe.captions_per_image == "one" else len(caption_image)
    steps = len(_parts(np.arange(count), recipe.batch_size))

    def batches() -> Iterator[TrainingBatch]:
        for epoch in range(recipe.epochs):
            if on_epoch:
                on_epoch(epoch)
            for chosen in _parts(_order(caption_image, recipe, generator), recipe.batch_size):
                yield TrainingBatch(
                    task.frozen_outputs(task.train, caption_image[chosen]), task.texts(task.train, chosen)
                )

    settings = SgdSettings(
        recipe.learning_rate,
        recipe.learning_rate,
        recipe.momentum,
        recipe.weight_decay,
        recipe.decay,
        steps * recipe.epochs,
    )
    with seeded(int(generator.integers(SEED_END))):  # dropout's stream
        trained, _ = train_on_batches(task.model, initial, batches(), settings)
    return trained


def _order(caption_image: np.ndarray, recipe: FullDataRecipe, generator: np.random.Generator) -> np.ndarray:
    """Captions of an epoch in random order."""
    captions = generator.permutation(len(caption_image))
    if recipe.captions_per_image == "all":
        return captions
    _, first = np.unique(caption_image[captions], return_index=True)  # first after shuffling, so a random one
    return captions[np.sort(first)]


def _parts(captions: np.ndarray, batch_size: int) -> Sequence[np.ndarray]:
    """Consecutive batches; a contrastive loss needs two pairs, so a last batch of one is dropped."""
    parts = [captions[start : start + batch_size] for start in range(0, len(captions), batch_size)]
    return [part for part in parts if len(part) > 1]
