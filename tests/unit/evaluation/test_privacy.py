"""Membership inference against definitions and on sets whose answer is known; likeness of copies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load

from rayvldd.config.study import Study
from rayvldd.coresets.selection import Coreset, choose_coreset
from rayvldd.evaluation.privacy import (
    RealPairs,
    auc_interval,
    auc_of_losses,
    likeness,
    membership_probe,
    pair_losses,
    start_pairs,
)
from rayvldd.evaluation.students import train_student


@pytest.fixture
def task(tiny_study: Study, tiny_cache: Path) -> StudyTask:
    return load(tiny_study, tiny_cache)


@pytest.fixture
def coreset(task: StudyTask) -> Coreset:
    return choose_coreset(task, "random", 6, 0)


def test_the_auc_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(0)
    members, others = generator.integers(0, 9, 40).astype(float), generator.integers(2, 12, 60).astype(float)
    expected = np.mean([1.0 if m < o else 0.5 if m == o else 0.0 for m in members for o in others])
    auc, error = auc_of_losses(members, others)
    assert auc == pytest.approx(expected)
    drawn = [auc_of_losses(generator.choice(members, 40), generator.choice(others, 60))[0] for _ in range(400)]
    assert error == pytest.approx(np.std(drawn), rel=0.15)  # the bootstrap's
    assert auc_of_losses(np.zeros(3), np.ones(4)) == (1.0, 0.0)
    assert auc_of_losses(np.ones(3), np.ones(4)) == (0.5, 0.0)


def test_the_interval_has_the_error_of_pairs_and_that_of_students() -> None:
    assert auc_interval([0.6], [0.1]) == pytest.approx((0.6 - 0.195996, 0.6 + 0.195996), abs=1e-5)
    low, high = auc_interval([0.5, 0.7], [0.1, 0.1])
    assert (high - low) / 2 == pytest.approx(1.959964 * (0.01 + 0.02 / 2) ** 0.5)
    assert auc_interval([0.99, 0.99], [0.1, 0.1])[1] == 1


def test_the_loss_of_a_pair_is_that_of_a_batch_with_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=1) for _ in range(2))
    found = pair_losses(images, texts, 4, 0.1)
    for place, loss in zip((4, 5, 6), found, strict=True):
        chosen = [place, 0, 1, 2, 3]
        scores = images[chosen] @ texts[chosen].T / 0.1
        first = torch.zeros(1, dtype=torch.int64)
        cross = torch.nn.functional.cross_entropy
        assert loss == pytest.approx(float(cross(scores[:1], first) + cross(scores.T[:1], first)) / 2, abs=1e-5)


def test_start_pairs_are_found_by_caption_and_image(task: StudyTask, coreset: Coreset) -> None:
    images = torch.tensor(task.train.split.pixels[coreset.image_index]).float() / 255
    captions = coreset.captions(task)
    images[1], captions[2] = 0.5, ""
    members, places = start_pairs(task, images, captions)
    assert places.tolist() == [0, 3, 4, 5]
    assert members.image_index.tolist() == coreset.image_index[places].tolist()
    assert [task.train.split.captions[i] for i in members.caption_index] == [captions[place] for place in places]
    assert len(start_pairs(task, images, [""] * 6)[0]) == 0


def test_a_student_that_has_learned_its_pairs_by_heart_reveals_them(task: StudyTask, coreset: Coreset) -> None:
    probe = membership_probe(task, RealPairs(coreset.image_index, coreset.caption_index))
    metric = probe.metric
    kinds = [name.split("-")[0] for name in probe.inputs.split.image_names]
    assert kinds == ["val"] * 6 + ["train"] * 40 + ["val"] * 6
    pairs = coreset.pairs(task, 0.1)
    settings = task.study.evaluation.model_copy(update={"epochs": 150})
    with torch.no_grad():
        frozen = task.model.frozen_part(pairs.images)
    student = train_student(task, pairs, frozen, settings, seed=0)
    found = metric(task, student, probe.inputs)
    assert found["membership_auc_train"] > 0.9 and found["membership_auc_held_out"] > 0.9
    new = metric(task, task.model.initial_parameters(0), probe.inputs)
    assert abs(new["membership_auc_train"] - 0.5) < 2 * 1.96 * new["membership_auc_train_error"]


@pytest.mark.parametrize("protocol", ["heads_only", "full_image_encoder"])
def test_copies_are_like_real_images_and_others_are_not(tiny_study: Study, tiny_cache: Path, protocol: str) -> None:
    task = load(tiny_study, tiny_cache, **{"model.protocol": protocol})
    start = task.pixels(task.train, np.arange(6))
    copied, mixed = likeness(task, start, start), likeness(task, start, start.roll(1, dims=0))
    assert (copied.start, copied.distilled, copied.recovered) == pytest.approx((1, 1, 1), abs=1e-4)
    assert (mixed.distilled, mixed.recovered) == (pytest.approx(1, abs=1e-4), 0)
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    assert likeness(task, start, noise).distilled < 0.99
