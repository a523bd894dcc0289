"""Models of all pairs: every recipe of the grid, its batches and its learning rates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tasks import load
from pydantic import ValidationError
from torch import Tensor

from rayvldd.config.settings import EvaluationSettings, FullDataSettings
from rayvldd.config.study import Study
from rayvldd.evaluation.full_data import recipes_of, train_on_all
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.randomness import SEED_END, Stream, generator_of
from rayvldd.records.full_data import FullDataChoice, FullDataRecipe, TriedRecipe
from rayvldd.training.sgd import SgdSettings, TrainingBatch, decay_factor, train_on_batches

RECIPE = FullDataRecipe(
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    decay="cosine",
    batch_size=32,
    epochs=2,
    captions_per_image="all",
)


@pytest.fixture
def task(tiny_study: Study, tiny_cache: Path) -> RetrievalTask:
    found: RetrievalTask = load(tiny_study, tiny_cache)
    return found


def test_recipes_are_all_combinations_and_few() -> None:
    grid = FullDataSettings(learning_rates=(0.1, 0.2), momentums=(0.0, 0.9), batch_sizes=(8,), epochs=(3, 4))
    recipes = recipes_of(EvaluationSettings(full_data=grid))
    assert len({recipe.words for recipe in recipes}) == len(recipes) == 8
    assert {recipe.weight_decay for recipe in recipes} == {5e-4}
    students = EvaluationSettings(weight_decay=1e-3, full_data=grid)
    assert {recipe.weight_decay for recipe in recipes_of(students)} == {1e-3}, "by default that of the students"
    own = grid.model_copy(update={"weight_decays": (0.0, 5e-3), "momentums": (0.9,)})
    recipes = recipes_of(EvaluationSettings(full_data=own))
    assert len({recipe.words for recipe in recipes}) == own.num_recipes == 8
    assert [recipe.weight_decay for recipe in recipes] == [0.0, 0.0, 5e-3, 5e-3] * 2
    with pytest.raises(ValidationError, match="16 recipes, allowed: at most 12"):
        FullDataSettings(weight_decays=(5e-4, 5e-3))
    with pytest.raises(ValidationError, match="14 recipes, allowed: at most 12"):
        FullDataSettings(learning_rates=tuple(range(1, 8)), momentums=(0.0, 0.9), batch_sizes=(8,), epochs=(3,))


def naively(task: RetrievalTask, recipe: FullDataRecipe, seed: int) -> Parameters:
    """SGD written out: momentum, weight decay and a cosine over all steps."""
    generator = generator_of(7, Stream.FULL_DATA, seed)
    sides = [side.clone() for side in task.model.initial_parameters(int(generator.integers(SEED_END)))]
    generator.integers(SEED_END)
    caption_image = task.train.split.caption_image
    orders = [generator.permutation(len(caption_image)) for _ in range(recipe.epochs)]
    size = recipe.batch_size
    batches = [order[start : start + size] for order in orders for start in range(0, len(order), size)]
    velocity: list[Tensor] = [torch.zeros_like(side) for side in sides]
    for step, chosen in enumerate(batches):
        live = [side.clone().requires_grad_() for side in sides]
        images, texts = task.frozen_outputs(task.train, caption_image[chosen]), task.texts(task.train, chosen)
        gradients = torch.autograd.grad(task.model.loss(Parameters(*live), images, texts), live)
        rate = recipe.learning_rate * (1 + np.cos(np.pi * step / len(batches))) / 2
        for number, gradient in enumerate(gradients):
            velocity[number] = recipe.momentum * velocity[number] + gradient + recipe.weight_decay * sides[number]
            sides[number] = sides[number] - rate * velocity[number]
    return Parameters(*sides)


def test_a_model_is_trained_as_its_recipe_says(task: RetrievalTask) -> None:
    epochs: list[int] = []
    found, expected = train_on_all(task, RECIPE, 7, 4, epochs.append), naively(task, RECIPE, 4)
    assert epochs == [0, 1]
    for side, other in zip(found, expected, strict=True):
        torch.testing.assert_close(side, other, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.image, train_on_all(task, RECIPE, 7, 4).image)
    assert not torch.equal(found.image, train_on_all(task, RECIPE, 7, 5).image)
    assert not torch.equal(found.image, train_on_all(task, RECIPE, 8, 4).image)


def test_one_caption_per_image_and_epoch(task: RetrievalTask, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    texts = RetrievalTask.texts

    def recorded(own: RetrievalTask, inputs: SplitInputs, index: np.ndarray) -> Tensor:
        seen.append(index)
        return texts(own, inputs, index)

    monkeypatch.setattr(RetrievalTask, "texts", recorded)
    train_on_all(task, RECIPE.model_copy(update={"captions_per_image": "one", "batch_size": 39}), 7, 4)
    images = [task.train.split.caption_image[index] for index in seen]
    assert [len(of_batch) for of_batch in images] == [39, 39], "of 40 images, the last one has no batch"
    assert all(len(set(of_batch.tolist())) == 39 for of_batch in images)


@pytest.mark.parametrize("epochs", [1, 2, 7, 10, 100])
def test_the_step_is_that_of_the_released_code(epochs: int) -> None:
    """Which has one epoch more than it is told, and cuts the rates after half of them, rounded down, and one."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[epochs // 2 + 1], gamma=0.1)
    expected = []
    for _ in range(epochs + 1):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert [decay_factor("step", step, epochs + 1) for step in range(epochs + 1)] == pytest.approx(expected)


def test_the_decay_is_a_cosine_or_nothing() -> None:
    factors = [decay_factor("cosine", step, 4) for step in range(4)]
    assert factors == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    assert decay_factor("none", 3, None) == 1
    for decay in ("cosine", "step"):
        with pytest.raises(ValueError, match="needs the number of steps"):
            decay_factor(decay, 0, None)


def test_without_decay_the_training_is_that_of_torch(task: RetrievalTask) -> None:
    """The factor 1 changes no bit."""
    images, texts = task.frozen_outputs(task.train, np.arange(8)), task.texts(task.train, np.arange(8))
    initial = task.model.initial_parameters(1)
    found, _ = train_on_batches(task.model, initial, [TrainingBatch(images, texts)] * 3, SgdSettings(0.1, 0.1, 0.9))
    live = [side.clone().requires_grad_() for side in initial]
    optimiser = torch.optim.SGD(live, lr=0.1, momentum=0.9)
    for _ in range(3):
        optimiser.zero_grad()
        task.model.loss(Parameters(*live), images, texts).backward()
        optimiser.step()
    assert torch.equal(found.image, live[0]) and torch.equal(found.text, live[1])


def test_the_best_recipe_is_that_of_the_highest_recall(tmp_path: Path) -> None:
    recalls = (None, 12.0, 31.5, 31.5)
    tried = tuple(
        TriedRecipe(recipe=RECIPE.model_copy(update={"epochs": epochs}), val_mean_recall=recall)
        for epochs, recall in enumerate(recalls, start=1)
    )
    choice = FullDataChoice(key="k", tried=tried)
    assert (choice.best.recipe.epochs, choice.best.num_recipes) == (3, 4)
    assert choice.best.words == (
        "SGD at 0.1 with momentum 0.9, weight decay 0.0005 and cosine decay, batches of 32, 3 epochs: 31.5 on "
        "validation, "
        "the best of 4 recipes"
    )
    choice.write(tmp_path / "recipe.json")
    assert FullDataChoice.read(tmp_path / "recipe.json") == choice
    assert "diverged" in FullDataChoice(key="k", tried=tried[:1]).best.words
