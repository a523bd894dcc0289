"""Concentration and nearest real images against loops, and on sets whose answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tasks import load

from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation import diagnostics as module
from rayvldd.evaluation.diagnostics import concentration, diagnostics, nearest_cosines, thumbnails


def test_concentration_is_the_mean_cosine_of_different_items() -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    cosines = [float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for i in range(6) for j in range(6) if i != j]
    assert concentration(rows) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert concentration(rows[:1].expand(3, -1)) == pytest.approx(1, abs=1e-6)


def test_the_nearest_row_is_found_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 4)
    generator = np.random.default_rng(1)
    items = generator.standard_normal((3, 5)).astype(np.float32)
    real = generator.standard_normal((10, 5)).astype(np.float32)
    found = nearest_cosines(torch.from_numpy(items), real)
    for item, cosine in zip(items, found.tolist(), strict=True):
        every = [item @ row / np.linalg.norm(item) / np.linalg.norm(row) for row in real]
        assert cosine == pytest.approx(max(every), abs=1e-6)


def test_real_pairs_are_their_own_nearest_images(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    found = diagnostics(task, choose_coreset(task, "random", 5, 0).pairs(task, 0.1))
    assert found["nearest_image_cosine"] == pytest.approx(1, abs=1e-4)
    assert -1 <= found["concentration_text"] < found["concentration_image"] <= 1


def test_pixels_are_compared_where_the_encoder_is_trained(
    tiny_study: Study, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(tiny_study, tiny_cache, **{"model.protocol": "full_image_encoder"})
    pairs = choose_coreset(task, "random", 5, 0).pairs(task, 0.1)
    found = diagnostics(task, pairs)
    assert found["concentration_image"] == pytest.approx(concentration(pairs.images.flatten(1)), abs=1e-6)
    assert found["nearest_image_cosine"] == pytest.approx(1, abs=1e-4), "real images are their own nearest ones"
    noise = torch.randn(pairs.images.shape, generator=torch.Generator().manual_seed(0))
    drawn = diagnostics(task, replace(pairs, images=noise))["nearest_image_cosine"]
    assert drawn < 0.9
    monkeypatch.setattr(module, "_READ", 7)
    monkeypatch.setattr(module, "_thumbnails_before", {})
    assert diagnostics(task, replace(pairs, images=noise))["nearest_image_cosine"] == pytest.approx(drawn, abs=1e-6)


def test_thumbnails_are_the_mean_colours_of_parts() -> None:
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = thumbnails(images).reshape(2, 3, 8, 8)
    for row, column in ((0, 0), (3, 7), (7, 2)):
        part = images[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert torch.allclose(found[:, :, row, column], part.mean((2, 3)) - 0.5, atol=1e-6)
    small = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(thumbnails(small), (small - 0.5).flatten(1))
