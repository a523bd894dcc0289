"""Covariance matching: moments, losses and gradients against naive versions in float64, and rejected settings."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tasks import StudyTask, load
from torch import Tensor

from rayvldd.config.methods.covariance import CovarianceSettings
from rayvldd.config.settings import ImageEncoderSettings
from rayvldd.config.study import Study
from rayvldd.distillation.covariance import (
    Covariance,
    matrix_distance,
    real_moments,
    ridge_loss,
    whitened_cross,
)
from rayvldd.distillation.evaluations import EvaluatedRun
from rayvldd.distillation.loop import OuterLoop
from rayvldd.distillation.synthetic_set import SyntheticSet
from rayvldd.distillation.trial_step import faults_of_step
from rayvldd.errors import StoreError
from rayvldd.models.image_encoder import build_image_encoder
from rayvldd.models.retrieval_task import SplitInputs, faults_of_further_encoder

VARIANTS = ("plain", "whitened", "ridge")
MakeTask = Callable[..., StudyTask]


@pytest.fixture
def make_task(tiny_study: Study, tiny_cache: Path) -> MakeTask:
    """The tiny study with covariance matching as its method, in float64."""

    def make(variant: str, **settings: Any) -> StudyTask:
        own = {f"distillation.covariance.{name}": value for name, value in {"variant": variant, **settings}.items()}
        task = load(tiny_study, tiny_cache, **{"distillation.method": "covariance", **own})
        task.model.double()
        doubled = {name: getattr(task.train, name).astype(np.float64) for name in ("images", "caption_embeddings")}
        return replace(task, train=replace(task.train, **doubled))

    return make


def all_pairs(task: StudyTask, train: SplitInputs | None = None) -> tuple[Tensor, Tensor]:
    """The features of every caption and of its image, not scaled."""
    train = train or task.train
    return torch.from_numpy(train.images[train.split.caption_image]), torch.from_numpy(
        np.array(train.caption_embeddings)
    )


def naive_scaled(task: StudyTask, train: SplitInputs | None = None) -> list[tuple[Tensor, Tensor]]:
    """Mean and root mean square length of each side."""
    found = []
    for side in all_pairs(task, train):
        mean = side.mean(0)
        found.append((mean, ((side - mean) ** 2).sum(1).sum().div(len(side) - 1).sqrt()))
    return found


def naive_loss(
    task: StudyTask,
    images: Tensor,
    texts: Tensor,
    real: tuple[Tensor, Tensor] | None,
    train: SplitInputs | None = None,
) -> Tensor:
    """The loss with every matrix written out, and every solve left to autograd."""
    settings = task.study.distillation.of(CovarianceSettings)
    scales = naive_scaled(task, train)
    image, text = ((side - mean) / length for side, (mean, length) in zip((images, texts), scales, strict=True))
    mean_part = settings.weight_mean * (image.mean(0).square().sum() + text.mean(0).square().sum())
    if settings.variant == "ridge":
        assert real is not None
        labels = torch.eye(len(image), dtype=image.dtype)
        scores = []
        for pairs, others in zip((image, text), real, strict=True):  # W = (H^T H + e I)^-1 H^T labels
            gram = pairs.T @ pairs + settings.regularisation * torch.eye(pairs.shape[1], dtype=pairs.dtype)
            scores.append(F.normalize(others @ torch.linalg.solve(gram, pairs.T @ labels), dim=1))
        logits = scores[0] @ scores[1].T / settings.temperature
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2 + mean_part

    def matrix(left: Tensor, right: Tensor) -> Tensor:
        left, right = left - left.mean(0), right - right.mean(0)
        cross = left.T @ right / (len(left) - 1)
        if settings.variant == "plain":
            return cross
        inverses = []
        for side in (left, right):
            added = settings.regularisation / side.shape[1] * torch.eye(side.shape[1], dtype=side.dtype)
            inverses.append(torch.linalg.inv(side.T @ side / (len(side) - 1) + added))
        return inverses[0] @ cross @ inverses[1]

    everything = [(side - mean) / length for side, (mean, length) in zip(all_pairs(task, train), scales, strict=True)]
    target = matrix(*everything)
    away = settings.rho * target - matrix(image, text)
    return away.square().sum() / target.square().sum() + mean_part


def test_the_moments_are_those_of_all_pairs(make_task: MakeTask) -> None:
    task = make_task("plain")
    moments = real_moments(task, task.train)
    sides = all_pairs(task)
    scaled = []
    for side, scale, (mean, length) in zip(sides, (moments.image, moments.text), naive_scaled(task), strict=True):
        assert torch.allclose(scale.mean, mean) and float(scale.length) == pytest.approx(float(length))
        scaled.append(scale(side))
        assert float(scaled[-1].square().sum(1).sum()) / (len(side) - 1) == pytest.approx(1)
    assert torch.allclose(moments.cross, scaled[0].T @ scaled[1] / (len(scaled[0]) - 1))
    assert torch.allclose(moments.within_text, torch.cov(scaled[1].T))
    assert torch.allclose(moments.within_image, torch.cov(scaled[0].T))


def test_images_in_parts_give_the_same_moments(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("plain")
    whole = real_moments(task, task.train)
    monkeypatch.setattr("rayvldd.distillation.covariance._IMAGES_AT_A_TIME", 7)
    parts = real_moments(task, task.train)
    for name in ("cross", "within_image", "within_text"):
        assert torch.allclose(getattr(parts, name), getattr(whole, name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradient_are_those_of_a_naive_version(make_task: MakeTask, variant: str) -> None:
    task = make_task(variant, rho=1.5, weight_mean=0.3, regularisation=0.2, real_batch_size=16)
    settings = task.study.distillation
    method, synthetic = Covariance(task, settings, []), SyntheticSet(task, settings, np.random.default_rng(0), seed=0)
    for name in ("images", "texts"):
        noise = torch.randn(synthetic.values[name].shape, generator=torch.Generator().manual_seed(1))
        synthetic.values[name] = (synthetic.values[name] + 0.1 * noise).double()
    step = method.gradient(synthetic, 0, np.random.default_rng(7))

    generator = np.random.default_rng(7)
    generator.integers(2**31)
    real = method._real_sides(method._targets[0], method._draw(generator)) if variant == "ridge" else None
    pixels, texts = (synthetic.values[name].clone().requires_grad_() for name in ("images", "texts"))
    loss = naive_loss(task, task.model.frozen_part(pixels), texts, real)
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-9)
    for name, expected in zip(("images", "texts"), torch.autograd.grad(loss, (pixels, texts)), strict=True):
        assert float((step.gradients[name] - expected).norm() / expected.norm()) < 1e-8, name


OTHER: dict[str, Any] = {
    "name": "convnet_d3",
    "pretrained": False,
    "options": {"img_size": 16, "width": 12},
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
}
"""An encoder of another width, which expects pixels on another scale."""


def own_encoder(study: Study) -> dict[str, Any]:
    return study.model.image_encoder.model_dump(mode="json")


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_several_encoders_have_the_mean_of_their_losses(
    make_task: MakeTask, tiny_study: Study, variant: str, micro_batch: int | None
) -> None:
    task = make_task(variant, regularisation=0.2, real_batch_size=16, image_encoders=[own_encoder(tiny_study), OTHER])
    engine = task.study.distillation.engine.model_copy(update={"micro_batch": micro_batch})
    settings = task.study.distillation.model_copy(update={"engine": engine})
    other = task.encoded_by(ImageEncoderSettings.model_validate(OTHER))
    other.model.double()
    method, synthetic = Covariance(task, settings, []), SyntheticSet(task, settings, np.random.default_rng(0), seed=0)
    for name in ("images", "texts"):
        synthetic.values[name] = (synthetic.values[name] + 0.1).double()
    step = method.gradient(synthetic, 0, np.random.default_rng(7))

    generator = np.random.default_rng(7)
    generator.integers(2**31)
    batch = method._draw(generator)
    pixels, texts = (synthetic.values[name].clone().requires_grad_() for name in ("images", "texts"))
    mean, std = (torch.tensor(OTHER[name]).double().view(1, 3, 1, 1) for name in ("mean", "std"))
    seen = {task.model: pixels, other.model: (task.model.denormalise(pixels) - mean) / std}
    losses = []
    for target in method._targets:
        model, train = target.encoder.model, target.encoder.inputs
        train = replace(train, images=train.images.astype(np.float64))
        real = method._real_sides(target, batch) if variant == "ridge" else None
        losses.append(naive_loss(task, model.frozen_part(seen[model]), texts, real, train))
    assert not torch.isclose(losses[0], losses[1])
    loss = (losses[0] + losses[1]) / 2
    assert float(step.loss) == pytest.approx(float(loss.detach()), rel=1e-9)
    for name, expected in zip(("images", "texts"), torch.autograd.grad(loss, (pixels, texts)), strict=True):
        assert float((step.gradients[name] - expected).norm() / expected.norm()) < 1e-8, name


def test_the_studys_own_encoder_in_the_list_changes_nothing(make_task: MakeTask, tiny_study: Study) -> None:
    steps = []
    for encoders in ([], [own_encoder(tiny_study)]):
        task = make_task("ridge", image_encoders=encoders)
        synthetic = SyntheticSet(task, task.study.distillation, np.random.default_rng(0), seed=0)
        for name in ("images", "texts"):
            synthetic.values[name] = synthetic.values[name].double()
        steps.append(Covariance(task, task.study.distillation, []).gradient(synthetic, 0, np.random.default_rng(1)))
    assert torch.equal(steps[0].loss, steps[1].loss)
    assert torch.equal(steps[0].gradients["images"], steps[1].gradients["images"])


def test_features_of_further_encoders_are_those_of_a_study_with_them(
    make_task: MakeTask, tiny_study: Study, tiny_cache: Path
) -> None:
    """With the same name in the cache; and one task builds an encoder once."""
    encoder = ImageEncoderSettings.model_validate(OTHER)
    task, own = make_task("ridge"), load(tiny_study, tiny_cache, **{"model.image_encoder": OTHER})
    before = sorted(tiny_cache.glob("features-*.npy"))
    found = task.encoded_by(encoder)
    assert np.array_equal(found.inputs.images, own.train.images)
    assert sorted(tiny_cache.glob("features-*.npy")) == before
    assert task.encoded_by(encoder) is found
    without_cache = replace(task, cache=None).encoded_by(encoder)
    assert np.array_equal(without_cache.inputs.images, own.train.images)


def test_a_set_and_its_state_name_the_encoders(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"

    def loop(seed: int) -> tuple[StudyTask, OuterLoop]:
        encoder = {**OTHER, "weights": str(weights)}
        torch.save(build_image_encoder(ImageEncoderSettings.model_validate(OTHER), seed).state_dict(), weights)
        changes = {"distillation.method": "covariance", "distillation.covariance.image_encoders": [encoder]}
        task = load(tiny_study, tiny_cache, **changes)
        return task, OuterLoop(task.study, task, [], 3)

    task, first = loop(1)
    key = "covariance.image_encoders.0"
    assert first.distilled_set().origin.fingerprints == {
        **task.fingerprints,
        key: task.encoded_by(task.study.distillation.of(CovarianceSettings).image_encoders[0]).model.fingerprint,
    }
    EvaluatedRun(task.study, task, first, 3, tmp_path / "run").evaluate()
    EvaluatedRun(task.study, task, loop(1)[1], 3, tmp_path / "run").resume()
    other_task, other = loop(2)
    with pytest.raises(StoreError, match=r"fingerprints was .*image_encoders.0"):
        EvaluatedRun(other_task.study, other_task, other, 3, tmp_path / "run").resume()


def test_an_encoder_is_named_once(tiny_study: Study) -> None:
    encoders: Any = [OTHER, OTHER]
    with pytest.raises(ValueError, match="convnet_d3 is in the list twice"):
        tiny_study.at({"distillation.method": "covariance", "distillation.covariance.image_encoders": encoders})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "mobilenet_v9"}, r"image_encoders.1.name: no timm model is called 'mobilenet_v9'"),
        ({"weights": "/no/such.pth"}, r"image_encoders.1.weights: no such file: /no/such.pth"),
        ({"options": {"img_size": 16, "widht": 3}}, r"image_encoders.1: timm could not build 'convnet_d3'"),
    ],
)
def test_encoders_that_cannot_be_built_are_faults(tiny_study: Study, changes: dict[str, Any], expected: str) -> None:
    encoders: Any = [OTHER, {**OTHER, **changes}]
    study = tiny_study.at({"distillation.method": "covariance", "distillation.covariance.image_encoders": encoders})
    faults = [
        str(fault)
        for key, encoder in study.further_image_encoders().items()
        for fault in faults_of_further_encoder(study.model, encoder, study.data.image_size, key)
    ]
    assert len(faults) == 1 and re.match(f"distillation.covariance.{expected}", faults[0]), faults


def test_a_step_is_tried_with_all_encoders(tiny_study: Study) -> None:
    encoders: Any = [own_encoder(tiny_study), OTHER]
    study = tiny_study.at({"distillation.method": "covariance", "distillation.covariance.image_encoders": encoders})
    assert faults_of_step(study) == []


def test_all_real_pairs_as_the_set_have_the_loss_0(make_task: MakeTask) -> None:
    """The mean term and the distance of a set that is the data, with rho 1."""
    for variant in ("plain", "whitened"):
        task = make_task(variant)
        moments, settings = real_moments(task, task.train), task.study.distillation.of(CovarianceSettings)
        target = whitened_cross(moments, settings.regularisation) if variant == "whitened" else moments.cross
        image, text = all_pairs(task)
        distance = matrix_distance((moments.image(image), moments.text(text)), target, settings)
        assert float(distance) == pytest.approx(0, abs=1e-9), variant


def test_pairs_that_are_the_batch_itself_are_retrieved(make_task: MakeTask) -> None:
    """Under weak regularisation a head maps each of its own pairs to that pair's coefficient alone."""
    settings = CovarianceSettings(variant="ridge", regularisation=1e-9)
    rows = [torch.randn(5, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (1, 2)]
    expected = float(-torch.log_softmax(torch.eye(5, dtype=torch.float64) / 0.07, dim=1)[0, 0])
    assert float(ridge_loss((rows[0], rows[1]), (rows[0], rows[1]), settings)) == pytest.approx(expected, rel=1e-4)


def test_noise_on_the_real_side_has_the_stated_size(make_task: MakeTask) -> None:
    methods = (
        Covariance(task, task.study.distillation, [])
        for task in (make_task("ridge"), make_task("ridge", real_noise=0.5))
    )
    plain, noisy = (
        method._real_sides(method._targets[0], method._draw(np.random.default_rng(3))) for method in methods
    )
    for before, after in zip(plain, noisy, strict=True):
        length = float((after - before).square().sum(1).mean().sqrt())
        assert length == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model.protocol": "full_image_encoder"}, "set model.protocol to heads_only"),
        (
            {"model.protocol": "lora", "model.lora.targets": ["blocks.0"]},
            "heads_only alone has, got lora",
        ),
        (
            {"distillation.similarity": "low_rank", "distillation.student_loss": "weighted_bce"},
            "learns no similarity, got distillation.similarity low_rank",
        ),
        (
            {"distillation.covariance.variant": "plain", "distillation.covariance.real_noise": 0.3},
            "real_noise has no effect under variant plain",
        ),
        ({"distillation.engine.compile": True}, "engine.compile has no effect under distillation.method covariance"),
    ],
)
def test_cases_without_a_closed_form_are_rejected(tiny_study: Study, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        tiny_study.at({"distillation.method": "covariance", **changes})


def test_a_study_with_it_needs_no_experts(tiny_study: Study) -> None:
    assert not tiny_study.at({"distillation.method": "covariance"}).requires_experts
