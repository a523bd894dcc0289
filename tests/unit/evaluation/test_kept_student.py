"""A kept student embeds as the evaluation did, from its folder alone, and not with other encoders."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load
from PIL import Image
from safetensors.torch import save_file

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.errors import DataError, StoreError
from rayvldd.evaluation.kept_student import KeptStudent, save_student
from rayvldd.evaluation.scoring import embeddings
from rayvldd.models.parameters import Parameters
from rayvldd.testing.toy import PROTOCOLS


def student_of(task: StudyTask, seed: int = 3) -> Parameters:
    """A student whose weights are those of no initialisation."""
    return Parameters(*(side + 0.01 for side in task.model.initial_parameters(seed)))


def file_of(pixels: np.ndarray, form: str = "png") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("changes", PROTOCOLS.values(), ids=PROTOCOLS)
def test_it_embeds_as_the_evaluation_did(
    changes: Mapping[str, SettingValue], tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    task = load(tiny_study, tiny_cache, **changes)
    student = student_of(task)
    save_student(tmp_path / "student", task, student, seed=3)
    kept = KeptStudent(tmp_path / "student")
    images, captions = embeddings(task, student, task.val)
    files = [file_of(np.array(pixels)) for pixels in task.val.split.pixels]
    assert torch.allclose(kept.embed_images(files), images, atol=1e-6)
    assert torch.allclose(kept.embed_captions(task.val.split.captions), captions, atol=1e-6)
    assert kept.card.seed == 3
    assert kept.embed_images([]).shape == (0, images.shape[1]) == kept.embed_captions([]).shape


def test_images_are_resized_as_those_of_the_data(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    save_student(tmp_path, task := load(tiny_study, tiny_cache), student_of(task), seed=3)
    kept = KeptStudent(tmp_path)
    large = np.kron(np.array(task.val.split.pixels[0]), np.ones((1, 5, 3), dtype=np.uint8))
    resized = Image.fromarray(large.transpose(1, 2, 0)).resize((16, 16), Image.Resampling.BICUBIC)
    files = [file_of(large), file_of(np.asarray(resized).transpose(2, 0, 1))]
    of_large, of_resized = kept.embed_images(files)
    assert torch.allclose(of_large, of_resized, atol=1e-6)


def test_every_image_that_cannot_be_decoded_is_named(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    save_student(tmp_path, task := load(tiny_study, tiny_cache), student_of(task), seed=3)
    good = file_of(np.array(task.val.split.pixels[0]))
    with pytest.raises(DataError, match=r"(?s)image 1: .*image 200: .*allowed: the content of an image file"):
        KeptStudent(tmp_path).embed_images([good, b"no image", *[good] * 198, good[:40]])


def test_a_folder_without_a_card_or_with_other_weights_is_no_student(
    tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"student.json: not readable as the card of a student: No such file"):
        KeptStudent(tmp_path)
    save_student(tmp_path, task := load(tiny_study, tiny_cache), student := student_of(task), seed=3)
    save_file({"image": student.image[:-1].clone(), "text": student.text}, tmp_path / "student.safetensors")
    with pytest.raises(StoreError, match=r"its sides have .* weights, those of the model"):
        KeptStudent(tmp_path)
    save_file({"image": student.image, "text": student.text + 1e-3}, tmp_path / "student.safetensors")
    with pytest.raises(StoreError, match="the weights of the text side differ from their checksum"):
        KeptStudent(tmp_path)
    (tmp_path / "student.safetensors").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="not readable as a student"):
        KeptStudent(tmp_path)


def test_a_student_of_other_encoders_is_refused(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    save_student(tmp_path, task := load(tiny_study, tiny_cache), student_of(task), seed=3)
    card = tmp_path / "student.json"
    values = json.loads(card.read_text(encoding="utf-8"))
    values["fingerprints"]["image_encoder"] = "0" * 16
    card.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(StoreError, match=r"other weights of image_encoder \(0{16}, here \w{16}\)\nNext: "):
        KeptStudent(tmp_path)
    values["model"]["protocol"] = "none"
    card.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(StoreError, match="not readable as a student: protocol"):
        KeptStudent(tmp_path)


def test_local_encoders_are_found_from_another_folder(
    tiny_study: Study, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of a model runs in a folder of its own."""
    from rayvldd.models.image_encoder import build_image_encoder

    monkeypatch.chdir(tmp_path)
    save_file(build_image_encoder(tiny_study.model.image_encoder, 5).state_dict(), "encoder.safetensors")
    task = load(tiny_study, tiny_cache, **{"model.image_encoder.weights": "encoder.safetensors"})
    save_student(tmp_path / "student", task, student_of(task), seed=3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert KeptStudent(tmp_path / "student").embed_captions(["a red square"]).shape == (1, 16)
