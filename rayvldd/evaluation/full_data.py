"""Train models on all real pairs, for the full-data bound.

The bound is the recall that a user reaches with all pairs. Therefore it is trained by the best of a few recipes on
validation, and not by the recipe of the experts, which is SGD without momentum at a constant rate.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import product

from rayvldd.config.settings import EvaluationSettings
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import SEED_END, Stream, generator_of, seeded
from rayvldd.records.full_data import FullDataRecipe
from rayvldd.training.real_batches import RealEpoch
from rayvldd.training.sgd import SgdSettings, TrainingBatch, train_on_batches


def recipes_of(settings: EvaluationSettings) -> list[FullDataRecipe]:
    """Return the recipes of a study's grid, at least one."""
    grid = settings.full_data
    weight_decays = grid.weight_decays or (settings.weight_decay,)
    lists = (grid.learning_rates, grid.momentums, weight_decays, grid.decays, grid.batch_sizes, grid.epochs)
    return [
        FullDataRecipe(
            learning_rate=rate,
            momentum=momentum,
            weight_decay=weight_decay,
            decay=decay,
            batch_size=batch_size,
            epochs=epochs,
            captions_per_image=grid.captions_per_image,
        )
        for rate, momentum, weight_decay, decay, batch_size, epochs in product(*lists)
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
    real = RealEpoch(task, recipe.batch_size, recipe.captions_per_image)

    def batches() -> Generator[TrainingBatch]:
        for epoch in range(recipe.epochs):
            if on_epoch:
                on_epoch(epoch)
            yield from real.batches(generator)

    settings = SgdSettings(
        recipe.learning_rate,
        recipe.learning_rate,
        recipe.momentum,
        recipe.weight_decay,
        recipe.decay,
        real.num_batches * recipe.epochs,
    )
    dropout = seeded(int(generator.integers(SEED_END)))
    with dropout, closing(batches()) as drawn:
        trained, _ = train_on_batches(task.model, initial, drawn, settings, cuda_graphs=task.has_step_graphs)
    return trained
