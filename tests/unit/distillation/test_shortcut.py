"""Shortcut trajectories and the start ranges of each side: against loops, from a store, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import load, random_trajectory

from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.study import Study
from rayvldd.distillation.loop import OuterLoop
from rayvldd.distillation.segments import drift_bounds
from rayvldd.errors import StoreError
from rayvldd.experts.get_or_make import ExpertRequest, get_or_make
from rayvldd.experts.movement import Layouts, Movement, movement_between
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.training import train_epochs
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.storage.folder import FolderStorage

LAYOUTS = Layouts(ParameterLayout(("a", "b"), ((2, 3), (4,))), ParameterLayout(("c",), ((5,),)))


def drawn_trajectory(epochs: int = 4) -> Trajectory:
    generator = torch.Generator().manual_seed(0)
    walk = [Parameters(torch.zeros(10), torch.zeros(5))]
    for _ in range(epochs):
        walk.append(Parameters(*(side + torch.randn(side.shape, generator=generator) for side in walk[-1])))
    return Trajectory.of_every_epoch(walk)


def test_each_tensor_moves_by_its_share_of_the_way() -> None:
    trajectory, end = drawn_trajectory(), 3
    segment = trajectory.shortcut(1, 2, end, LAYOUTS)
    for side, tensors in enumerate(([(0, 6), (6, 10)], [(0, 5)])):
        for first, last in tensors:

            def part(epoch: int, at: tuple[int, int, int] = (side, first, last)) -> torch.Tensor:
                return trajectory[epoch][at[0]][at[1] : at[2]].double()

            norms = [float((part(epoch + 1) - part(epoch)).norm()) for epoch in range(end)]
            for found, epoch in ((segment.start, 1), (segment.target, 2)):
                share = sum(norms[:epoch]) / sum(norms)
                expected = (1 - share) * part(0) + share * part(end)
                assert torch.allclose(found[side][first:last].double(), expected, atol=1e-6)


def test_the_ends_of_the_shortcut_are_the_snapshots() -> None:
    trajectory = drawn_trajectory()
    segment = trajectory.shortcut(0, 3, 3, LAYOUTS)
    for found, snapshot in ((segment.start, trajectory[0]), (segment.target, trajectory[3])):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, snapshot, strict=True))


def test_a_tensor_that_stays_where_it_is_does_so_on_the_shortcut() -> None:
    still = Parameters(torch.ones(10), torch.ones(5))
    segment = Trajectory.of_every_epoch([still] * 4).shortcut(1, 2, 3, LAYOUTS)
    assert torch.equal(segment.start.image, still.image) and torch.equal(segment.target.text, still.text)


def test_two_snapshots_and_the_norms_are_enough() -> None:
    whole = drawn_trajectory()
    movements = [movement_between(whole[epoch], whole[epoch + 1], LAYOUTS) for epoch in range(4)]
    ends = Trajectory({0: whole[0], 3: whole[3]}, movements)
    found, expected = ends.shortcut(0, 1, 3, LAYOUTS), whole.shortcut(0, 1, 3, LAYOUTS)
    assert torch.equal(found.target.image, expected.target.image)
    assert torch.equal(found.target.text, expected.target.text)
    with pytest.raises(StoreError, match="no norms of its movement in epoch 1"):
        Trajectory({0: whole[0], 3: whole[3]}).shortcut(0, 1, 3, LAYOUTS)


@pytest.mark.parametrize(("number_format", "limit"), [("float32", 0.72), ("float16", 0.42)])
def test_experts_store_just_the_ends(
    tiny_study: Study, tiny_cache: Path, tmp_path: Path, number_format: str, limit: float
) -> None:
    """And a distillation reads them; interrupted training keeps the norms of the epochs before."""
    own = {"experts.keep_epochs": "ends", "experts.storage": number_format, "experts.num_experts": 1}
    shortcut = {"distillation.trajectory_matching.shortcut_to": 2}
    task = load(tiny_study, tiny_cache, **own, **shortcut)
    recipe, training = expert_recipe(task.study, task.fingerprints), expert_training(task.study)
    assert task.study.reached_epochs() == {0, 2}
    store = ExpertStore(FolderStorage(tmp_path / number_format))
    states = train_epochs(task, training, 0)
    for state in (next(states), next(states)):
        store.keep_epoch(recipe, 0, state, {0, 2})
    (expert,) = get_or_make(task, ExpertRequest(recipe, training, (0,), frozenset({0, 2})), store)
    assert expert.epochs == [0, 2] and len(expert.known_movements) == 2
    record = store.record(recipe, 0)
    assert record is not None
    every = 3 * 4 * (task.model.image_layout.size + task.model.text_layout.size)
    shared = sum(store.storage.size(name) or 0 for name in store.storage.names(recipe.key) if "start" in name)
    assert (record["bytes"] + shared) / every < limit
    assert OuterLoop(task.study, task, [expert], 0).step().loss > 0


def test_float16_reads_back_what_it_rounded(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    task = load(tiny_study, tiny_cache, **{"experts.storage": "float16"})
    recipe, training = expert_recipe(task.study, task.fingerprints), expert_training(task.study)
    store = ExpertStore(FolderStorage(tmp_path))
    (expert,) = get_or_make(task, ExpertRequest(recipe, training, (0,), frozenset({0, 1, 2})), store)
    states = list(train_epochs(task, training, 0))
    for epoch, state in enumerate(states):
        for found, made in zip(expert[epoch], state.parameters, strict=True):
            assert found.dtype == torch.float32
            assert float((found - made).abs().max()) < 2e-3


class Moving(Trajectory):
    """An expert of whom only the movement is known: per epoch, of the image and of the text side."""

    def __init__(self, image: list[float], text: list[float]) -> None:
        empty = Parameters(torch.zeros(1), torch.zeros(1))
        movements = [Movement((a,), (b,)) for a, b in zip(image, text, strict=True)]
        super().__init__(dict.fromkeys(range(len(image) + 1), empty), movements)


def test_the_ranges_of_drift_follow_the_rule() -> None:
    """r = 1, 4, 2, 3, 2: the median is 2, first above it in epoch 2, last not above it in epoch 5."""
    experts = [Moving([1, 8, 2, 3, 4], [1, 2, 1, 1, 2]), Moving([1, 8, 2, 3, 4], [1, 2, 1, 1, 2])]
    settings = TrajectoryMatchingSettings(start_ranges="drift", separate_start_epochs=True)
    layouts = Layouts(ParameterLayout(("a",), ((1,),)), ParameterLayout(("b",), ((1,),)))
    assert drift_bounds(experts, settings, layouts) == (3, 5), "text starts end one epoch before the last target"
    short = settings.model_copy(update={"expert_epochs": 4})
    assert drift_bounds(experts, short, layouts) == (2, 2)
    equal = [Moving([1, 1, 1], [1, 1, 1])]
    assert drift_bounds(equal, settings, layouts) == (3, 3)


def test_the_ranges_of_drift_are_of_the_mean_over_experts() -> None:
    layouts = Layouts(ParameterLayout(("a",), ((1,),)), ParameterLayout(("b",), ((1,),)))
    settings = TrajectoryMatchingSettings(start_ranges="drift", separate_start_epochs=True)
    experts = [Moving([1, 1, 9, 1], [1, 1, 1, 1]), Moving([9, 1, 1, 1], [1, 1, 1, 1])]
    ratios = np.array([5, 1, 5, 1])
    assert np.median(ratios) == 3
    assert drift_bounds(experts, settings, layouts) == (2, 4)


@pytest.mark.parametrize("start_ranges", ["fixed", "drift"])
def test_each_side_starts_in_its_own_range(
    tiny_study: Study, tiny_cache: Path, start_ranges: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"max_start_epoch_image": 1, "max_start_epoch_text": 4} if start_ranges == "fixed" else {}
    section = {"separate_start_epochs": True, "start_ranges": start_ranges, "lr_lr": 1e-6, **own}
    changes = {f"distillation.trajectory_matching.{name}": value for name, value in section.items()}
    task = load(tiny_study, tiny_cache, **{"experts.epochs": 5, "distillation.lr_text": 0.1, **changes})
    expert = random_trajectory(task.model, epochs=5)
    loop, read, segment = OuterLoop(task.study, task, [expert], 0), list[int](), Trajectory.segment

    def watch(self: Trajectory, start: int, target: int) -> Any:
        read.append(start)
        return segment(self, start, target)

    monkeypatch.setattr(Trajectory, "segment", watch)
    for _ in range(25):
        loop.step()
    bounds = (1, 4)
    if start_ranges == "drift":
        layouts = Layouts(task.model.image_layout, task.model.text_layout)
        bounds = drift_bounds([expert], task.study.distillation.of(TrajectoryMatchingSettings), layouts)
    assert set(read[::2]) == set(range(bounds[0])) and set(read[1::2]) <= set(range(bounds[1]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"shortcut_to": 3}, "shortcut_to 3 is beyond the experts' last epoch 2"),
        ({"shortcut_to": 1, "max_start_epoch": 2}, "beyond the end 1 of the shortcut"),
        ({"max_start_epoch_text": 2}, "needs separate_start_epochs: true, got 2 with false"),
        ({"start_ranges": "drift"}, "it needs separate_start_epochs: true"),
        ({"experts.keep_epochs": "ends"}, "got shortcut_to 0: set it to an epoch"),
        (
            {"start_ranges": "drift", "separate_start_epochs": True, "experts.keep_epochs": "reached"},
            "cannot foresee the epochs",
        ),
        ({"experts.keep_epochs": "ends", "distillation.method": "expert_fit"}, "got distillation.method expert_fit"),
    ],
)
def test_contradictions_are_refused(tiny_study: Study, changes: dict[str, Any], expected: str) -> None:
    dotted = {
        name if "." in name else f"distillation.trajectory_matching.{name}": value for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=expected):
        tiny_study.at(dotted)
