"""The state of a study, read for ``rayvldd status``."""

from pathlib import Path

import pytest
from helpers.cli import last_object, run
from helpers.studies import TINY_STUDY

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search import study_status
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.study_status import status_of
from rayvldd.workspace import Workspace


def begun(workspace: Path, name: str) -> StudyFolder:
    folder = StudyFolder(Workspace(workspace).study(name))
    with folder.opened(Study.model_validate({**TINY_STUDY, "name": name})):
        pass
    return folder


def test_an_unreadable_study_does_not_hide_those_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("damaged", "fine", "plugged"):
        begun(tmp_path, name)
    (tmp_path / "studies" / "damaged" / "study.json").write_text("{", encoding="utf-8")
    plain = study_status._status_of

    def failing(folder: StudyFolder, study: Study) -> object:
        if folder.root.name == "plugged":
            raise KeyError("the stopping rule of a plug-in that is not installed")
        return plain(folder, study)

    monkeypatch.setattr(study_status, "_status_of", failing)
    result = run("status", "--workspace", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    states = {one["name"]: (one["state"], one["fault"]) for one in last_object(result)["studies"]}
    assert states["fine"] == ("stopped", "")
    assert states["damaged"][0] == states["plugged"][0] == "unreadable"
    assert "study.json" in states["damaged"][1] and "Next: " not in states["damaged"][1]
    assert "the stopping rule of a plug-in that is not installed" in states["plugged"][1]


def test_all_lines_of_a_fault_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path, "one")

    def failing(*_: object) -> object:
        raise OSError("the disk does not answer\nsince its cable is out")

    monkeypatch.setattr(study_status, "_status_of", failing)
    assert status_of(folder).fault == "the disk does not answer\n      since its cable is out"
