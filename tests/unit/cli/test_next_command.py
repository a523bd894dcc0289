"""Next commands are of the same study, settings, workspace and store."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from helpers.cli import last_object, run

from rayvldd.cli.check import _next_command
from rayvldd.cli.invocation import DEFAULT_WORKSPACE, EXIT_USER_ERROR, Invocation
from rayvldd.cli.sweep import _how_to_look
from rayvldd.workspace import Workspace, database_uri


def invocation(workspace: Path, *overrides: str) -> Invocation:
    return Invocation("rayvldd check x.yaml", overrides, workspace, False, False, False, sys.stdout)


@pytest.mark.parametrize(
    ("overrides", "workspace", "store", "options"),
    [
        ((), DEFAULT_WORKSPACE, None, ""),
        (("name=other", "search.num_trials=3"), DEFAULT_WORKSPACE, None, " --set name=other --set search.num_trials=3"),
        (("data.root=/a b",), DEFAULT_WORKSPACE, None, " --set 'data.root=/a b'"),
        ((), Path("/a w"), "s3://b/p", " --store s3://b/p"),
    ],
)
def test_every_option_of_the_check_is_repeated(
    overrides: tuple[str, ...], workspace: Path, store: str | None, options: str
) -> None:
    given = invocation(workspace, *overrides)
    where = "" if workspace == DEFAULT_WORKSPACE else " --workspace '/a w'"
    assert _next_command("sweep", given, Path("x.yaml"), store) == f"rayvldd sweep x.yaml{options}{where}"


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("rayvldd status", "rayvldd status --workspace /w"),
        ("rayvldd status, or --workspace FOLDER", "rayvldd status --workspace /w, or --workspace FOLDER"),
        ("correct it, then: rayvldd check x.yaml", "correct it, then: rayvldd check x.yaml --workspace /w"),
        ("rayvldd experts list --store s", "rayvldd experts list --store s --workspace /w"),
        ("rayvldd evaluate s --lr-student 1,1 --workspace /v", "rayvldd evaluate s --lr-student 1,1 --workspace /v"),
        ("rayvldd experts x.yaml (trains them)", "rayvldd experts x.yaml --workspace /w (trains them)"),
        ("rayvldd check x.yaml --set 'a=[1, 2]'", "rayvldd check x.yaml --set 'a=[1, 2]' --workspace /w"),
        ("rayvldd coreset --help", "rayvldd coreset --help"),
        ("rayvldd spaces", "rayvldd spaces"),
        ("the same command with --set name=OTHER", "the same command with --set name=OTHER"),
    ],
)
def test_the_workspace_is_added_to_commands_without_it(text: str, completed: str) -> None:
    assert invocation(Path("/w")).in_this_workspace(text) == completed
    assert invocation(DEFAULT_WORKSPACE).in_this_workspace(text) == text


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A workspace with a study that is not running."""
    folder = tmp_path / "studies" / "made"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("command", [["pause", "made"], ["pause", "other"], ["logs", "made", "--trial", "0"]])
def test_the_next_command_of_an_error_is_of_the_same_workspace(studies: Path, command: list[str]) -> None:
    result = run(*command, "--workspace", studies, "--json")
    assert result.exit_code == EXIT_USER_ERROR
    assert last_object(result)["next_command"].startswith(f"rayvldd status --workspace {studies}")
    assert f"Next: rayvldd status --workspace {studies}" in result.output


def test_a_study_that_is_paused_is_followed_in_its_workspace(studies: Path) -> None:
    with FileLock(studies / "studies" / "made" / ".lock"):
        result = run("pause", "made", "--workspace", studies)
    assert result.exit_code == 0, result.output
    assert f"Next: rayvldd status --workspace {studies}" in result.output


def test_logs_of_a_study_without_a_cluster_name_the_log_of_its_last_trial(tmp_path: Path) -> None:
    for number in (0, 11):
        (tmp_path / "studies" / "made" / "trials" / f"trial_{number:03d}").mkdir(parents=True)
    words: list[str | Path] = ["logs", "made", "--workspace", tmp_path, "--address", "http://127.0.0.1:9"]
    found = last_object(run(*words, "--json"))
    assert found["next_command"] == f"rayvldd logs made --trial 11 --workspace {tmp_path}"
    assert "cannot be reached" in found["message"] and "made is a study of the workspace" in found["message"]
    other = last_object(run("logs", "another", *words[2:], "--json"))
    assert "ray attach" in other["next_command"]


def test_a_finished_study_in_a_workspace_that_was_moved_names_the_database_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayvldd.tracking.mlflow_pages.trials_page", lambda uri, study: f"{study} in {uri}")
    moved, gone = Workspace(tmp_path / "100% moved"), database_uri(tmp_path / "gone" / "mlflow.db")
    outcome: Any = SimpleNamespace(tracking_uri=gone, study="one")
    moved.root.mkdir()

    def shown() -> str:
        return _how_to_look(invocation(moved.root), outcome, None, moved)

    assert shown().endswith(f"opens one in {gone}"), "neither is there"
    (moved.root / "mlflow.db").touch()
    assert shown().endswith(f"opens one in {moved.tracking_uri}") and "--tracking-uri" not in shown()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "mlflow.db").touch()
    assert f"--tracking-uri {gone}" in shown(), "a database elsewhere is what the user named"
