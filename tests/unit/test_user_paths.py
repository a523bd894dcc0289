"""Paths from users: a leading tilde, and names that no file can have."""

from pathlib import Path

import pytest
from helpers.cli import run
from helpers.studies import TINY_STUDY

from rayvldd.clusters.cluster_file import read_cluster_file
from rayvldd.config.loading import dump_study, load_study
from rayvldd.config.settings import FolderData, ImageEncoderSettings, TextEncoderSettings
from rayvldd.config.study import Study
from rayvldd.data.annotations import read_records
from rayvldd.data.caption_tables import convert_caption_table
from rayvldd.errors import ConfigError, DataError
from rayvldd.models.image_encoder import faults_of_image_encoder
from rayvldd.models.text_encoder import faults_of_text_encoder
from rayvldd.storage.folder import FolderStorage
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


def test_files_are_found_by_a_leading_tilde_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "..")
    (tmp_path / "base.yaml").write_text(dump_study(Study.model_validate(TINY_STUDY)))
    (tmp_path / "own.yaml").write_text("extends: ~/base.yaml\nname: own\n")
    assert load_study("~/own.yaml").name == "own"
    (tmp_path / "cluster.yaml").write_text("cluster_name: mine\nprovider: {type: local}\n")
    assert read_cluster_file("~/cluster.yaml").kind == "ray"


@pytest.mark.parametrize("folder", ["x" * 300, "x" * 5000])
def test_folders_with_a_name_that_is_too_long_are_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"extends: {folder}/base.yaml\n")
    with pytest.raises(ConfigError, match="no such study file"):
        load_study(tmp_path / "own.yaml")
    with pytest.raises(DataError, match="no such file"):
        read_records(FolderData(source="folder", root=str(tmp_path), annotations=f"{folder}/captions.jsonl"))
    FolderStorage(tmp_path / folder).check_writable()  # the folder above it can be written; the first write is refused


@pytest.mark.parametrize("workspace", ["~nobody_of_this_name/x", "x" * 300])
def test_a_workspace_with_an_impossible_name_ends_without_a_traceback(workspace: str) -> None:
    result = run("status", "--workspace", workspace)
    assert result.exit_code in (0, 2), result.exception


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
