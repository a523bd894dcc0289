"""Which notes of killed processes belong to a tracker."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from rayvldd.tracking.abandoned_runs import end_abandoned_runs
from rayvldd.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DIES = """
import os, sys
from pathlib import Path
from rayvldd.tracking.abandoned_runs import session_in
from rayvldd.workspace import Workspace
session_in(Workspace(Path(sys.argv[1])), sys.argv[2]).begin("study")
os._exit(1)
"""


class WithoutRuns:
    """A tracker that has no experiments."""

    def search_experiments(self) -> list[str]:
        return []


def without_runs() -> "MlflowClient":
    return cast("MlflowClient", WithoutRuns())


@pytest.mark.parametrize("same", ["sqlite:///../first/runs.db", "sqlite:///{folder}/first/runs.db"])
def test_a_relative_database_is_that_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: str) -> None:
    """The note is forgotten by a command that opens the same file, not by one that has the same words for another."""
    workspace = Workspace(tmp_path / "workspace")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.db").touch()
    command = [sys.executable, "-c", _DIES, str(workspace.root), "sqlite:///runs.db"]
    subprocess.run(command, cwd=tmp_path / "first", check=False)
    (note,) = workspace.open_runs.glob("*.json")

    monkeypatch.chdir(tmp_path / "second")
    end_abandoned_runs(workspace, "sqlite:///runs.db", without_runs)
    assert note.is_file()
    end_abandoned_runs(workspace, same.format(folder=tmp_path), without_runs)
    assert not note.exists()
