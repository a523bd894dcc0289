"""Images as a pyramid of levels: their sum, gradient and rates against naive versions, and whole sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tasks import StudyTask, drawn_like, load
from torch import Tensor

from rayvldd.config.study import Study
from rayvldd.distillation.pyramid import Pyramid, level_sizes
from rayvldd.distillation.synthetic_set import SyntheticSet, Tensors

OPTIMISERS = ("sgd", "scaled_sgd", "normalised_sgd", "adam")


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return drawn_like(torch.empty(*shape, dtype=torch.float64), seed)


def naive_sum(levels: Tensors, size: int) -> Tensor:
    """The sum by torch's own bilinear interpolation."""
    parts = [F.interpolate(level, (size, size), mode="bilinear", antialias=False) for level in levels.values()]
    return torch.stack(parts).sum(0)


@pytest.mark.parametrize(
    ("image_size", "sizes"), [(16, [1, 2, 4, 8, 16]), (96, [1, 2, 4, 8, 16, 32, 64, 96]), (17, [1, 2, 4, 8, 16, 17])]
)
def test_levels_double_up_to_the_image(image_size: int, sizes: list[int]) -> None:
    assert level_sizes(image_size) == sizes


@pytest.mark.parametrize("size", [16, 24])
def test_images_and_gradients_are_those_of_torchs_interpolation(size: int) -> None:
    pyramid = Pyramid(doubles(3, 3, size, size))
    for seed, level in enumerate(pyramid.levels.values()):
        level += doubles(*level.shape, seed=seed)
    leaves = {name: level.clone().requires_grad_() for name, level in pyramid.levels.items()}
    images = naive_sum(leaves, size)
    assert torch.allclose(pyramid.images(), images, rtol=0, atol=1e-12)
    loss = (images.tanh() * doubles(3, 3, size, size, seed=9)).sum()
    (by_images,) = torch.autograd.grad(loss, images, retain_graph=True)
    found, expected = pyramid.gradients(by_images), torch.autograd.grad(loss, list(leaves.values()))
    for (name, leaf), gradient in zip(leaves.items(), expected, strict=True):
        assert found[name].shape == leaf.shape
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-12), name


def test_the_start_is_exactly_the_images() -> None:
    images = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Pyramid(images).images(), images)


@pytest.mark.parametrize("size", [16, 24])
def test_a_step_of_sgd_is_no_longer_than_that_of_plain_pixels(size: int) -> None:
    """For any gradient: the map from it to the change of the pixels has no singular value above 1."""
    pyramid, square = Pyramid(torch.zeros(1, 3, size, size, dtype=torch.float64)), size * size
    rates = pyramid.rates(1.0, by_size=True)
    directions = torch.eye(square, dtype=torch.float64).view(square, 1, size, size).expand(-1, 3, -1, -1)
    moved = Pyramid(torch.zeros_like(directions))
    for name, gradient in moved.gradients(directions).items():
        moved.levels[name] += rates[name] * gradient
    change = moved.images()[:, 0].reshape(square, square)
    singular = torch.linalg.svdvals(change)
    assert 0.9 < float(singular[0]) <= 1 + 1e-9
    assert float(singular[-1]) == pytest.approx(1 / len(rates), rel=0.2)  # the finest details have the last level


def test_rates_of_optimisers_that_ignore_the_size_of_gradients_add_up() -> None:
    assert sum(Pyramid(torch.zeros(1, 3, 16, 16)).rates(2.0, by_size=False).values()) == pytest.approx(2.0)


@pytest.fixture
def task(tiny_study: Study, tiny_cache: Path) -> StudyTask:
    return load(tiny_study, tiny_cache)


def made(task: StudyTask, **changes: Any) -> SyntheticSet:
    flat = {"image_parametrisation": "pyramid", "lr_image": 1.0, **changes}
    study = task.study.at({f"distillation.{name}": value for name, value in flat.items()})
    return SyntheticSet(task, study.distillation, np.random.default_rng(0), seed=0)


def moved(synthetic: SyntheticSet, steps: int, first: int = 0) -> SyntheticSet:
    for step in range(first, first + steps):
        gradients = {name: drawn_like(synthetic.values[name], step) for name in ("images", "texts")}
        synthetic.descend(gradients, 1.0, None)
    return synthetic


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_set_moves_by_its_levels(task: StudyTask, optimiser: str) -> None:
    plain, levels = (
        moved(made(task, outer_optimiser=optimiser, image_parametrisation=kind), 1) for kind in ("pixels", "pyramid")
    )
    assert torch.equal(plain.texts, levels.texts)
    assert not torch.equal(plain.images, levels.images)
    assert torch.equal(levels.averaged()["images"], levels.images)
    assert set(levels.values) == set(plain.values)
    changes = [each.images - each.initial.images for each in (plain, levels)]
    shares = [float(change.mean((2, 3)).norm() / change.norm()) for change in changes]
    assert shares[1] > 1.5 * shares[0]  # of noise, low frequencies move further


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_restored_set_goes_on_with_the_same_bits(task: StudyTask, optimiser: str) -> None:
    changes = {"outer_optimiser": optimiser, "ema_decay": 0.9}
    whole = moved(made(task, **changes), 4)
    resumed = made(task, **changes)
    resumed.load_state_dict(moved(made(task, **changes), 2).state_dict())
    moved(resumed, 2, first=2)
    expected, found = whole.state_dict(), resumed.state_dict()
    assert found.keys() == expected.keys() and any(name.startswith("level.") for name in found)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_plain_pixels_have_no_levels(task: StudyTask) -> None:
    plain = moved(made(task, image_parametrisation="pixels"), 1)
    assert not any(name.startswith(("level.", "optimiser.images_")) for name in plain.state_dict())


def test_a_gradient_without_images_leaves_the_levels(task: StudyTask) -> None:
    synthetic = made(task)
    synthetic.descend({"texts": torch.ones_like(synthetic.texts)}, 1.0, None)
    assert torch.equal(synthetic.images, synthetic.initial.images)
