"""Paths from users: a leading tilde, and names that no file can have."""

from pathlib import Path

import pytest

from rayvldd.config.settings import ImageEncoderSettings, TextEncoderSettings
from rayvldd.data.caption_tables import convert_caption_table
from rayvldd.errors import DataError
from rayvldd.models.image_encoder import faults_of_image_encoder
from rayvldd.models.text_encoder import faults_of_text_encoder
from rayvldd.user_paths import exists, is_file, is_folder

NO_NAMES = ["x" * 5000, "a\0b", "half an emoji \ud83d", ""]


@pytest.mark.parametrize("name", NO_NAMES)
def test_nothing_exists_under_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    assert not is_file(tmp_path / name) and not is_file(name)
    assert not is_folder(tmp_path / "x" / name)
    assert not exists(tmp_path / "x" / name)


def test_a_leading_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "one").touch()
    assert is_folder("~/sets") and is_file("~/sets/one") and exists("~/sets/one")


def test_settings_with_a_name_that_is_too_long_are_refused(tmp_path: Path) -> None:
    long = "/" + "x" * 5000
    (fault,) = faults_of_image_encoder(ImageEncoderSettings(name="resnet18", weights=long))
    assert fault.where == "model.image_encoder.weights"
    (fault,) = faults_of_text_encoder(TextEncoderSettings(pooling="cls", name=long))
    assert fault.where == "model.text_encoder.name"
    table = tmp_path / "table.csv"
    table.write_text(f"image,caption\n{long},A dog.\n")
    with pytest.raises(DataError, match="no such image file"):
        convert_caption_table(table, tmp_path, tmp_path / "captions.jsonl")
