"""Expert-fit: kernel and distance against loops, its gradient against finite differences, its place in the loop."""

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load, random_trajectory
from torch import Tensor

from rayvldd.config.methods.expert_fit import ExpertFitSettings
from rayvldd.config.study import Study
from rayvldd.distillation.expert_fit import ExpertFit, distribution_distance, geodesic_kernel
from rayvldd.distillation.loop import distill
from rayvldd.distillation.synthetic_set import SyntheticSet

PROTOCOLS: dict[str, dict[str, Any]] = {
    "heads_only": {},
    "full_image_encoder": {"model.protocol": "full_image_encoder"},
    "lora": {"model.protocol": "lora", "model.lora.targets": ["blocks.0", "blocks.4"], "model.lora.rank": 2},
}
MakeTask = Callable[..., StudyTask]


@pytest.fixture
def make_task(tiny_study: Study, tiny_cache: Path) -> MakeTask:
    """The tiny study with expert-fit as its method."""

    def make(**changes: Any) -> StudyTask:
        own = {"distillation.method": "expert_fit", "distillation.expert_fit.max_epoch": 2}
        return load(tiny_study, tiny_cache, **{**own, **changes})

    return make


def unit_vectors(count: int, seed: int, dim: int = 5) -> Tensor:
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def naive_kernel(a: Tensor, b: Tensor, bandwidth: float) -> float:
    return math.exp(-(math.acos(max(-1.0, min(1.0, float(a @ b)))) ** 2) / (2 * bandwidth**2))


def test_the_kernel_is_that_of_the_angle() -> None:
    left, right = unit_vectors(4, 0), unit_vectors(3, 1)
    kernel = geodesic_kernel(left, right, 0.5)
    for i in range(4):
        for j in range(3):
            assert float(kernel[i, j]) == pytest.approx(naive_kernel(left[i], right[j], 0.5), rel=1e-9)


def test_the_distance_leaves_out_each_item_with_itself() -> None:
    synthetic, real = unit_vectors(4, 2), unit_vectors(6, 3)

    def mean(left: Tensor, right: Tensor, same: bool) -> float:
        values = [
            naive_kernel(a, b, 0.7) for i, a in enumerate(left) for j, b in enumerate(right) if not (same and i == j)
        ]
        return sum(values) / len(values)

    squared = mean(synthetic, synthetic, True) + mean(real, real, True) - 2 * mean(synthetic, real, False)
    expected = math.sqrt(max(squared, 0.0) + 1e-12)
    assert float(distribution_distance(synthetic, real, 0.7)) == pytest.approx(expected, rel=1e-6)


def test_equal_vectors_have_a_finite_gradient() -> None:
    rows = unit_vectors(1, 4).expand(3, -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distribution_distance(rows, unit_vectors(5, 5), 0.5), rows)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_gradient_is_that_of_a_naive_version(make_task: MakeTask, protocol: str) -> None:
    """Float64 finite differences of the loss along the gradient, before it is clipped."""
    task = make_task(**PROTOCOLS[protocol], **{"distillation.expert_fit.max_gradient_norm": 1e9})
    task.model.double()
    train = replace(task.train, caption_embeddings=task.train.caption_embeddings.astype(np.float64))
    if task.model.encoder_is_frozen:  # else the images are pixels
        train = replace(train, images=task.train.images.astype(np.float64))
    task = replace(task, train=train)
    experts = [random_trajectory(task.model, seed=1)]
    settings = task.study.distillation
    method = ExpertFit(task, settings, experts)
    synthetic = SyntheticSet(task, settings, np.random.default_rng(0), seed=0)
    for name in ("images", "texts"):
        synthetic.values[name] = synthetic.values[name].double()
    step = method.gradient(synthetic, 0, np.random.default_rng(7))
    for name in ("images", "texts"):
        direction = step.gradients[name] / step.gradients[name].norm()
        losses = []
        for sign in (1, -1):
            moved = SyntheticSet(task, settings, np.random.default_rng(0), seed=0)
            moved.values = {key: value.clone() for key, value in synthetic.values.items()}
            moved.values[name] = moved.values[name] + sign * 1e-6 * direction
            losses.append(float(method.gradient(moved, 0, np.random.default_rng(7)).loss))
        slope = (losses[0] - losses[1]) / 2e-6
        assert slope == pytest.approx(float(step.gradients[name].norm()), rel=1e-4)


def test_each_modality_is_clipped_by_itself(make_task: MakeTask) -> None:
    task = make_task(**{"distillation.expert_fit.max_gradient_norm": 1e-4})
    method = ExpertFit(task, task.study.distillation, [random_trajectory(task.model, seed=1)])
    synthetic = SyntheticSet(task, task.study.distillation, np.random.default_rng(0), seed=0)
    gradients = method.gradient(synthetic, 0, np.random.default_rng(0)).gradients
    assert [float(part.norm()) for part in gradients.values()] == pytest.approx([1e-4, 1e-4])
    assert set(gradients) == {"images", "texts"}, "no step sizes are learned"


def test_only_the_pairs_of_the_batch_move(make_task: MakeTask) -> None:
    task = make_task(**{"distillation.num_pairs": 8, "distillation.expert_fit.batch_size": 4})
    method = ExpertFit(task, task.study.distillation, [random_trajectory(task.model, seed=1)])
    synthetic = SyntheticSet(task, task.study.distillation, np.random.default_rng(0), seed=0)
    gradients = method.gradient(synthetic, 0, np.random.default_rng(0)).gradients
    moved = {name: part.flatten(1).norm(dim=1) > 0 for name, part in gradients.items()}
    assert int(moved["images"].sum()) == 4 and torch.equal(moved["images"], moved["texts"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_run_repeats_and_continues(make_task: MakeTask, tmp_path: Path, protocol: str) -> None:
    task = make_task(**PROTOCOLS[protocol])
    experts = [random_trajectory(task.model, seed) for seed in (1, 2)]
    whole = list(distill(task.study, task, experts, 3, tmp_path / "whole"))
    parts = distill(task.study, task, experts, 3, tmp_path / "parts")
    next(parts), next(parts)
    assert isinstance(parts, Generator)
    parts.close()
    rest = list(distill(task.study, task, experts, 3, tmp_path / "parts"))
    assert not torch.equal(whole[-1].distilled_set.images, whole[0].distilled_set.images)
    assert torch.equal(rest[-1].distilled_set.images, whole[-1].distilled_set.images)
    assert rest[-1].metrics["expert_fit_loss"] == whole[-1].metrics["expert_fit_loss"]
    assert whole[-1].distilled_set.lr_student_image == pytest.approx(task.study.distillation.lr_student_image)


def test_settings_that_contradict_each_other_are_refused(tiny_study: Study) -> None:
    base = {"distillation.method": "expert_fit"}
    for changes, expected in (
        ({"distillation.expert_fit.max_epoch": 3}, "beyond the experts' last epoch 2"),
        ({"distillation.expert_fit.min_epoch": 2, "distillation.expert_fit.max_epoch": 1}, "at most max_epoch"),
    ):
        with pytest.raises(ValueError, match=expected):
            tiny_study.at({**base, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"distillation.engine.compile": True}, "engine.compile has no effect under distillation.method expert_fit"),
        (
            {"model.protocol": "full_image_encoder", "distillation.engine.autocast": True},
            r"engine\.autocast has no effect under .* model\.protocol full_image_encoder",
        ),
        (
            {"model.protocol": "full_image_encoder", "distillation.engine.micro_batch": 2},
            r"engine\.micro_batch has no effect under .* model\.protocol full_image_encoder.* got 2: use null",
        ),
        (
            {"distillation.engine.graph_budget_gb": 2.0},
            r"engine\.graph_budget_gb has no effect under .*, which has no student steps, got 2\.0: use null",
        ),
        (
            {"distillation.engine.parameter_checkpoints": "offload"},
            r'parameter_checkpoints has no effect under .* got "offload": use "memory"',
        ),
    ],
)
def test_engine_settings_without_effect_are_refused(tiny_study: Study, changes: dict[str, Any], expected: str) -> None:
    own: dict[str, Any] = {"distillation.method": "expert_fit", "distillation.expert_fit.max_epoch": 2}
    with pytest.raises(ValueError, match=expected):
        tiny_study.at({**own, **changes})
    read = {"distillation.engine.autocast": True, "distillation.engine.micro_batch": 2}
    assert tiny_study.at({**own, **read}).distillation.engine.micro_batch == 2  # heads_only


def test_the_epochs_that_it_reads_are_those_of_its_settings(tiny_study: Study) -> None:
    point = tiny_study.at({"distillation.method": "expert_fit", "distillation.expert_fit.max_epoch": 2})
    assert point.reached_epochs() == {0, 1, 2}
    assert point.distillation.of(ExpertFitSettings).max_epoch == 2
