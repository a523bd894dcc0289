"""Models of one's own are scored on the real pairs of a study."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers.studies import TINY_STUDY
from helpers.tasks import load
from torch import Tensor, nn

import rayvldd as rv
from rayvldd.config.study import Study
from rayvldd.errors import InputError
from rayvldd.evaluation.scoring import score
from rayvldd.library.real_data import RealData, load_data


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealData:
    return load_data(Study.model_validate(TINY_STUDY), tmp_path_factory.mktemp("workspace"))


@pytest.mark.parametrize("split", ["val", "test"])
def test_recalls_are_those_of_a_student_with_the_same_weights(
    split: Literal["val", "test"], real: RealData, tiny_study: Study, tiny_cache: Path
) -> None:
    task = load(tiny_study, tiny_cache)
    model, student = task.model, task.model.initial_parameters(3)

    def images_of_any_length(pixels: Tensor) -> Tensor:
        return 7 * model.embed_images(real.image_encoder(pixels), student.image)

    found = real.recalls(images_of_any_length, lambda texts: model.embed_texts(texts, student.text) / 3, split)
    assert found == score(task, student, getattr(task, split))


def test_images_have_the_scale_of_those_of_a_distilled_set(real: RealData) -> None:
    seen: list[Tensor] = []

    def embed(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.eye(len(images), 60)

    real.recalls(embed, lambda texts: torch.eye(len(texts), 60))
    assert (real.mean, real.std) == ((0.5,) * 3, (0.5,) * 3)
    assert torch.equal(torch.cat(seen), torch.from_numpy(np.array(real.val.split.pixels)) / 127.5 - 1)


def test_the_encoder_is_not_trained_unless_asked_for(real: RealData) -> None:
    assert not real.image_encoder.training
    assert not any(weight.requires_grad for weight in real.image_encoder.parameters())


def test_sides_without_a_common_space_and_unknown_splits_are_refused(real: RealData) -> None:
    width = real.val.texts.shape[1]
    images = nn.Sequential(real.image_encoder, nn.LazyLinear(5))
    with pytest.raises(InputError, match=r"shapes \(12, 5\) and \(\d+, 4\); allowed: one row for each of 12 images"):
        real.recalls(images, nn.Linear(width, 4))
    with pytest.raises(InputError, match="split: 'train'; allowed: 'val' or 'test'"):
        real.recalls(images, nn.Linear(width, 5), "train")  # type: ignore[arg-type]


def test_it_is_a_name_of_the_package() -> None:
    assert rv.load_data is load_data
