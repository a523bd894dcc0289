"""Distorted images against their definitions, and probes against the recall of the split."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load

from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.evaluation import robustness
from rayvldd.evaluation.robustness import four_bit, jpeg, noisy, robustness_probes
from rayvldd.evaluation.scoring import score
from rayvldd.library.further import stored_images

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (3, 40, 40), dtype=np.uint8)


def test_sixteen_levels_are_those_between_black_and_white() -> None:
    found = four_bit(IMAGE, GENERATOR)
    assert set(np.unique(found)) == {17 * level for level in range(16)}
    assert np.abs(found.astype(int) - IMAGE).max() <= 8
    assert np.array_equal(four_bit(found, GENERATOR), found)


def test_jpeg_keeps_what_is_smooth_and_changes_what_is_not() -> None:
    grey = np.full((3, 40, 40), 90, dtype=np.uint8)
    assert np.abs(jpeg(grey, GENERATOR).astype(int) - 90).max() <= 1
    assert np.abs(jpeg(IMAGE, GENERATOR).astype(int) - IMAGE).mean() > 10


def test_noise_has_its_deviation_and_is_the_same_again() -> None:
    grey = np.full((3, 40, 40), 128, dtype=np.uint8)
    found = noisy(grey, np.random.default_rng(1))
    assert np.std(found.astype(float)) == pytest.approx(2.55, rel=0.05)
    assert np.array_equal(found, noisy(grey, np.random.default_rng(1)))
    assert noisy(np.full((3, 4, 4), 255, dtype=np.uint8), GENERATOR).min() > 230


@pytest.fixture(params=["heads_only", "full_image_encoder"])
def task(request: pytest.FixtureRequest, tiny_study: Study, tiny_cache: Path) -> StudyTask:
    return load(tiny_study, tiny_cache, **{"model.protocol": request.param})


def test_a_distortion_that_changes_nothing_has_the_recall_of_the_split(
    task: StudyTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
        "same": lambda image, _: image,
        "black": lambda image, _: np.zeros_like(image),
    }
    monkeypatch.setattr(robustness, "DISTORTIONS", changes)
    same, black = robustness_probes(task, task.val, ArrayCache(tmp_path))
    student = task.model.initial_parameters(3)
    assert same(task, student) == pytest.approx(score(task, student, task.val).as_dict())
    # Black images have one embedding: every query ends last, and all images tie.
    assert black(task, student)["text_to_image_r10"] == 0
    assert same.inputs.split.pixels.size == 0 and same.identity != black.identity


def test_all_distortions_are_measured(task: StudyTask, tmp_path: Path) -> None:
    probes = robustness_probes(task, task.val, ArrayCache(tmp_path))
    assert [probe.name for probe in probes] == ["JPEG 75", "4 bits", "noise 0.01"]
    student = task.model.initial_parameters(3)
    again = robustness_probes(task, task.val, ArrayCache(tmp_path))  # from the cache
    assert [probe(task, student) for probe in probes] == [probe(task, student) for probe in again]


def test_images_of_an_export_are_rounded_and_clipped(task: StudyTask) -> None:
    images = torch.tensor([-0.5, 0.0, 100.4 / 255, 1.0, 1.5]).repeat(3, 1).reshape(1, 3, 1, 5)
    expected = task.model.normalise(torch.tensor([0.0, 0.0, 100 / 255, 1.0, 1.0]).repeat(3, 1).reshape(1, 3, 1, 5))
    assert torch.allclose(stored_images(images, task), expected)
