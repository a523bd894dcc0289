"""Pictures of a set by outer step: bounded in number, with the first and the last one, and the pixels of the set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tasks import distillation_settings
from PIL import Image

from rayvldd.distillation.step_pictures import MOST_PICTURES, draw_images, pictured_steps


@pytest.mark.parametrize(
    ("outer_steps", "every", "steps"),
    [
        (4, 2, [0, 2, 4]),
        (5, 2, [0, 2, 4, 5]),
        (80, 20, [0, 20, 40, 60, 80]),
        (1000, 50, [0, 250, 500, 750, 1000]),
        (3, 10, [0, 3]),
    ],
)
def test_the_steps_are_few_and_those_of_evaluations(outer_steps: int, every: int, steps: list[int]) -> None:
    assert pictured_steps(distillation_settings(outer_steps=outer_steps, evaluate_every=every)) == steps
    assert len(steps) <= MOST_PICTURES


@pytest.mark.parametrize(("pairs", "size"), [(1, (100, 100)), (7, (492, 198)), (40, (492, 296))])
def test_a_picture_has_the_first_images(pairs: int, size: tuple[int, int], tmp_path: Path) -> None:
    draw_images(torch.zeros(pairs, 3, 8, 8), tmp_path / "pictures" / "0.png")
    with Image.open(tmp_path / "pictures" / "0.png") as opened:
        assert opened.size == size
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["0.png"]


def test_pixels_outside_the_range_are_clipped_and_small_images_are_not_smoothed(tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 2, 2)
    images[0, 0, 0, 0], images[1, :, 1, 1], images[1, :, 0, 0] = 3.0, -5.0, float("nan")
    draw_images(images, tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as opened:
        pixels = np.asarray(opened)
    first, second = pixels[2:98, 2:98], pixels[2:98, 100:196]
    assert (first[:48, :48] == (255, 0, 0)).all() and not first[48:].any() and not first[:, 48:].any()
    assert not second.any()
    assert (pixels[:2] == 255).all()
