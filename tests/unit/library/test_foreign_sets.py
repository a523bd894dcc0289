"""Sets from elsewhere: what their cards would load is listed and refused, unless the user names it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.sets import card_with
from helpers.studies import TINY_STUDY

from rayvldd.config.settings import ImageEncoderSettings
from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import InputError
from rayvldd.library.foreign_sets import refuse_untrusted
from rayvldd.records.made_sets import note_made_set

HOSTILE = {
    "data": {"source": "folder", "root": "/secret", "annotations": "/etc/passwd", "images": "../../home"},
    "model.image_encoder": {"name": "hf-hub:somebody/model", "options": {"checkpoint_path": "/x.pth"}},
    "model.text_encoder": {"pooling": "mean", "name": "somebody/encoder"},
}
KEYS = [
    "data.root",
    "data.annotations",
    "data.images",
    "model.image_encoder.name",
    "model.image_encoder.options",
    "model.text_encoder.name",
]


def made_with(**changes: Any) -> DistilledSet:
    """A set whose card has a tiny study with other sections."""
    images, texts = torch.zeros(2, 3, 16, 16), torch.zeros(2, 8)
    study = Study.model_validate(TINY_STUDY).model_dump(mode="json")
    for key, value in changes.items():
        section, _, inner = key.partition(".")
        if inner:
            study[section][inner] = value
        else:
            study[section] = value
    return DistilledSet(images, texts, images.clone(), texts.clone(), ["a", "b"], 0.1, 0.1, card=card_with(study=study))


def refused(distilled: DistilledSet, folder: Path, workspace: Path, *overrides: str, **more: Any) -> list[str]:
    """The keys that are refused."""
    try:
        refuse_untrusted({str(folder): distilled}, workspace, overrides, next_command="repeat --trust", **more)
    except InputError as error:
        assert "repeat --trust" in error.next_command
        assert all("--trust" in fault.allowed for fault in error.faults)
        return [fault.where.rpartition(" ")[2] for fault in error.faults]
    return []


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_all_that_a_foreign_set_would_load_is_listed(tmp_path: Path) -> None:
    folder, workspace = tmp_path / "set", tmp_path / "workspace"
    folder.mkdir()
    assert refused(made_with(**HOSTILE), folder, workspace) == KEYS
    weights = {"name": "resnet18", "weights": "/x.pth"}
    assert refused(made_with(**{"model.image_encoder": weights}), folder, workspace) == ["model.image_encoder.weights"]
    from_hub = {"name": "resnet18", "pretrained": True}
    assert refused(made_with(**{"model.image_encoder": from_hub}), folder, workspace) == ["model.image_encoder.name"]


def test_data_of_the_hub_are_listed_by_name(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    data = {"source": "huggingface", "name": "somebody/data"}
    assert refused(made_with(data=data), tmp_path / "set", tmp_path / "workspace") == ["data.name"]
    tars = {"source": "webdataset", "root": "/data", "shards": "../elsewhere/*.tar"}
    assert refused(made_with(data=tars), tmp_path / "set", tmp_path / "workspace") == ["data.root", "data.shards"]


def test_a_set_that_needs_nothing_else_or_is_in_the_workspace_is_not_refused(tmp_path: Path) -> None:
    folder, own = tmp_path / "set", tmp_path / "workspace" / "studies" / "tiny" / "best"
    folder.mkdir()
    own.mkdir(parents=True)
    assert refused(made_with(), folder, tmp_path / "workspace") == []
    assert refused(made_with(**HOSTILE), own, tmp_path / "workspace") == []


def test_a_copy_of_a_set_that_was_made_with_the_workspace_is_not_refused(tmp_path: Path) -> None:
    made, copy, other, workspace = (tmp_path / name for name in ("made", "copy", "other", "workspace"))
    made_with(**HOSTILE).save(made)
    shutil.copytree(made, copy)
    assert refused(DistilledSet.load(copy), copy, workspace) == KEYS
    note_made_set(workspace, made)
    assert refused(DistilledSet.load(copy), copy, workspace) == []
    shutil.copytree(made, other)
    card = (other / "card.json").read_text(encoding="utf-8")
    (other / "card.json").write_text(card.replace("/secret", "/private"), encoding="utf-8")
    assert refused(DistilledSet.load(other), other, workspace) == KEYS, "another card"


def test_a_note_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, workspace = tmp_path / "made", tmp_path / "workspace"
    made_with(**HOSTILE).save(made)
    workspace.write_text("a file where a folder should be")
    note_made_set(workspace, made)
    assert "rayvldd evaluate will ask for --trust" in caplog.text


def test_a_link_out_of_the_workspace_is_a_set_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "link").symlink_to(tmp_path / "set")
    assert refused(made_with(**HOSTILE), tmp_path / "workspace" / "link", tmp_path / "workspace") == KEYS


def test_sets_of_mlflow_are_own_ones_in_the_workspaces_database_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(made_with(**HOSTILE), Path("models:/tiny@best"), Path("workspace")) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://example.org")
    assert refused(made_with(**HOSTILE), Path("models:/tiny@best"), Path("workspace")) == KEYS


def test_a_set_of_a_plug_in_is_one_from_elsewhere() -> None:
    assert refused(made_with(**HOSTILE), Path("hub:/somebody/set"), Path("workspace")) == KEYS


def test_what_the_user_names_is_trusted(tmp_path: Path) -> None:
    folder, workspace = tmp_path / "set", tmp_path / "workspace"
    folder.mkdir()
    named = ("data={source: folder, root: /data}", "model.text_encoder.name=mine")
    encoders = {"resnet18": ImageEncoderSettings(name="resnet18")}
    assert refused(made_with(**HOSTILE), folder, workspace, *named) == KEYS[3:5]
    assert refused(made_with(**HOSTILE), folder, workspace, *named, encoders=encoders) == []
