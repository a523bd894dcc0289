"""Sets that other programs saved are read safely, and refused where they do not fit the declared model."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cli import last_object, run
from helpers.studies import TINY_STUDY
from helpers.tasks import load

from rayvldd.config.study import Study
from rayvldd.distillation import distilled_set
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.released_sets import SCALES, ReleasedSet, converted, declared_study, faults_of_released
from rayvldd.distillation.released_sets import read_released as read
from rayvldd.errors import InputError
from rayvldd.records.set_card import ReleasedCard


def content(width: int, pairs: int = 4, size: int = 16) -> dict[str, Any]:
    """What the code of LoRS saves, with random numbers."""
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(pairs, 3, size, size, generator=generator),
        "text": torch.randn(pairs, width, generator=generator),
        "similarity_params": [torch.ones(pairs), torch.zeros(pairs, 2), torch.zeros(pairs, 2)],
        "similarity_mat": torch.rand(pairs, pairs, generator=generator),
        "syn_lr_img": torch.tensor(0.25),
        "syn_lr_txt": torch.tensor(0.5),
    }


def saved(file: Path, values: object) -> Path:
    torch.save(values, file)
    return file


def test_a_set_of_lors_is_converted_and_trains_students(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    loaded = load(tiny_study, tiny_cache)
    width = loaded.train.caption_embeddings.shape[1]
    values = content(width)
    released = read(saved(tmp_path / "distilled_100.pt", values))
    study = declared_study(tiny_study, released)
    task = load(study, tiny_cache)
    assert faults_of_released(released, task, None) == []
    made = converted(released, study, task)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in SCALES["clip"])
    torch.testing.assert_close(made.images, values["image"] * std + mean)
    assert torch.equal(made.texts, values["text"])
    assert (made.lr_student_image, made.lr_student_text) == (0.25, 0.5)
    matrix = made.similarity.matrix()
    assert matrix is not None and torch.equal(matrix, values["similarity_mat"])
    assert made.student_loss == "weighted_bce" and isinstance(made.card, ReleasedCard)
    made.save(tmp_path / "set")
    again = DistilledSet.load(tmp_path / "set")
    assert again == made and again.pairs(task).pair_loss == "weighted_bce"
    assert isinstance(again.card, ReleasedCard) and again.card.released.files == ["distilled_100.pt"]
    as_they_are = converted(released, study, task, "unit", rates=(1.0, 2.0))
    assert torch.equal(as_they_are.images, values["image"]) and as_they_are.lr_student_text == 2.0


def test_two_tensors_are_a_set_without_step_sizes(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    task = load(tiny_study, tiny_cache)
    values = content(task.train.caption_embeddings.shape[1])
    images, texts = (saved(tmp_path / f"{name}.pt", values[name]) for name in ("image", "text"))
    released = read(images, texts)
    assert released.similarity is None and released.files == ("image.pt", "text.pt")
    study = declared_study(tiny_study, released)
    assert (study.distillation.student_loss, study.distillation.similarity) == ("info_nce", "identity")
    (fault,) = faults_of_released(released, task, None)
    assert str(fault).startswith("--lr-student: is not given")
    assert faults_of_released(released, task, (0.1, 0.1)) == []


def test_a_set_of_another_width_or_size_is_refused(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    values = content(7, size=32)
    released = ReleasedSet(values["image"], values["text"], None, (0.1, 0.1), ("a",))
    size, width = map(str, faults_of_released(released, task, None))
    assert size == "data.image_size: is 16, the images of the set have 32; allowed: 32"
    assert "the set has 7" in width and width.startswith("model.text_encoder")


class Code:
    """What must not be run while a file is read."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "text: is missing|text: is no tensor"),
        ({"image": torch.zeros(4, 16, 16)}, r"image: is of torch.float32 with the shape \[4, 16, 16\]"),
        ({"image": torch.zeros(4, 1, 16, 16)}, "square images of 3 channels"),
        ({"text": torch.zeros(3, 8)}, "text: has 3 rows for 4 images"),
        ({"text": torch.full((4, 8), float("nan"))}, "text: has values that are not finite"),
        ({"similarity_mat": torch.zeros(3, 3)}, r"similarity_mat: has the shape \[3, 3\] for 4 images"),
        ({"code": Code()}, "holds more than tensors, or is damaged, and was not read"),
    ],
)
def test_files_that_are_no_sets_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        read(saved(tmp_path / "set.pt", content(8) | change))
    assert not (tmp_path / "made_by_a_pickle").exists()


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    whole, images = saved(tmp_path / "whole.pt", content(8)), saved(tmp_path / "images.pt", content(8)["image"])
    with pytest.raises(InputError, match=r"--texts: .* has the caption embeddings too"):
        read(whole, images)
    with pytest.raises(InputError, match="has the images alone; allowed: --texts"):
        read(images)
    with pytest.raises(InputError, match="cannot be read, it may be incomplete: No such file"):
        read(tmp_path / "nothing.pt")


def test_the_command(tmp_path: Path, tiny_study: Study, tiny_cache: Path) -> None:
    width = load(tiny_study, tiny_cache).train.caption_embeddings.shape[1]
    study, file = tmp_path / "tiny.yaml", saved(tmp_path / "distilled_5.pt", content(width))
    study.write_text(Study.model_validate(TINY_STUDY).model_dump_json(), encoding="utf-8")
    command = ("convert", study, file, "--out", tmp_path / "set", "--workspace", tmp_path / "workspace")
    assert run(*command, "--dry-run").exit_code == 0 and not (tmp_path / "set").exists()
    wrong = run(*command, "--lr-student", "1")
    assert wrong.exit_code == 2 and "--lr-student: got '1'" in wrong.output
    result = run(*command, "--json")
    assert result.exit_code == 0, result.output
    assert last_object(result)["num_pairs"] == 4 and "weighted_bce" in result.output
    assert len(DistilledSet.load(tmp_path / "set")) == 4
    assert "not free for" in run(*command).output


def test_a_conversion_that_is_cut_off_is_done_by_the_same_command(
    tmp_path: Path, tiny_study: Study, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = load(tiny_study, tiny_cache).train.caption_embeddings.shape[1]
    study, file = tmp_path / "tiny.yaml", saved(tmp_path / "distilled_5.pt", content(width))
    study.write_text(Study.model_validate(TINY_STUDY).model_dump_json(), encoding="utf-8")
    command = ("convert", study, file, "--out", tmp_path / "set", "--workspace", tmp_path / "workspace")

    def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(distilled_set, "write_text_whole", cut_off)  # of the card, after the tensors
        assert run(*command).exit_code == 130
    assert not (tmp_path / "set").exists()
    assert run(*command).exit_code == 0 and len(DistilledSet.load(tmp_path / "set")) == 4
