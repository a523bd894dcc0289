"""Addresses in the database of a workspace that was moved or copied."""

import logging
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rayvldd.tracking import moved_database
from rayvldd.tracking.moved_database import follow_move, is_folder_of, present_address
from rayvldd.tracking.sessions import Session
from rayvldd.workspace import Workspace

_TABLES = """
CREATE TABLE experiments (experiment_id INTEGER, name TEXT, artifact_location TEXT);
CREATE TABLE experiment_tags (experiment_id INTEGER, key TEXT, value TEXT);
CREATE TABLE runs (run_uuid TEXT, artifact_uri TEXT);
CREATE TABLE model_versions (source TEXT, storage_location TEXT);
"""
ELSEWHERE = (
    "s3://bucket/mlartifacts/a",
    "mlflow-artifacts:/1/a/artifacts",
    "file:///elsewhere/mlartifacts/a/artifacts",
    "http://[broken",
)
"""Addresses that are none of a workspace."""


def made(root: Path, *, is_tagged: bool = True, runs: tuple[str, ...] = ("a", "b")) -> Workspace:
    """A workspace whose database has the tables and columns of MLflow that matter here."""
    workspace = Workspace(root)
    workspace.artifacts.mkdir(parents=True)
    place = workspace.artifacts.as_uri()
    with closing(sqlite3.connect(workspace.database)) as connection:
        connection.executescript(_TABLES)
        rows = [(0, "Default", "file:///elsewhere/mlruns/0"), (1, "rayvldd", place)]
        connection.executemany("INSERT INTO experiments VALUES (?, ?, ?)", rows)
        if is_tagged:
            connection.execute("INSERT INTO experiment_tags VALUES (1, 'rayvldd.artifacts', 'workspace')")
        for run in runs:
            (workspace.artifacts / run / "artifacts").mkdir(parents=True)
            address = f"{place}/{run}/artifacts"
            connection.execute("INSERT INTO runs VALUES (?, ?)", (run, address))
            plain = str(workspace.artifacts / run / "artifacts")
            connection.execute("INSERT INTO model_versions VALUES (?, ?)", (plain, address))
        near = f"{place}_beside/c/artifacts"  # begins with the same letters
        connection.executemany("INSERT INTO runs VALUES ('', ?)", [(one,) for one in (*ELSEWHERE, near)])
        connection.execute("INSERT INTO model_versions VALUES (NULL, 's3://bucket/models/a')")
        connection.commit()
    return workspace


def addresses(workspace: Workspace) -> dict[str, list[Any]]:
    columns = [("experiments", "artifact_location"), ("runs", "artifact_uri")]
    columns += [("model_versions", "source"), ("model_versions", "storage_location")]
    with closing(sqlite3.connect(workspace.database)) as connection:
        return {
            column: [value for (value,) in connection.execute(f"SELECT {column} FROM {table} ORDER BY rowid")]
            for table, column in columns
        }


def expected(workspace: Workspace, before: dict[str, list[Any]], first: Workspace) -> dict[str, list[Any]]:
    """The addresses of a workspace, with its folder in place of a former one."""
    old, new = first.artifacts, workspace.artifacts

    def present(value: str | None) -> str | None:
        for one, other in ((f"{old.as_uri()}/", f"{new.as_uri()}/"), (f"{old}/", f"{new}/")):
            if value is not None and f"{value}/".startswith(one):
                return (other + f"{value}/".removeprefix(one)).removesuffix("/")
        return value

    return {column: [present(value) for value in values] for column, values in before.items()}


NAMES = [("old", "new"), ("100% old", "new ü ' 50%20"), ("ö?#", "x & y"), ("old", "old/inner"), ("a/old", "old")]


@pytest.mark.parametrize(("old", "new"), NAMES)
def test_a_moved_workspace_has_its_own_addresses(tmp_path: Path, old: str, new: str) -> None:
    first, second = made(tmp_path / "1" / old), Workspace(tmp_path / "2" / new)
    before = addresses(first)
    second.root.parent.mkdir(parents=True)
    first.root.rename(second.root)
    follow_move(second.tracking_uri)
    now = addresses(second)
    assert now == expected(second, before, first)
    assert now["artifact_location"][1] == second.artifacts.as_uri() and now["artifact_uri"] != before["artifact_uri"]
    assert set(ELSEWHERE) <= set(now["artifact_uri"])
    follow_move(second.tracking_uri)
    assert addresses(second) == now
    second.root.rename(tmp_path / "third")
    third = Workspace(tmp_path / "third")
    follow_move(third.tracking_uri)
    assert addresses(third) == expected(third, before, first)


def test_each_copy_has_its_own_addresses(tmp_path: Path) -> None:
    first = made(tmp_path / "first")
    before = addresses(first)
    shutil.copytree(first.root, tmp_path / "copy")
    copy = Workspace(tmp_path / "copy")
    for workspace in (copy, first):
        follow_move(workspace.tracking_uri)
    assert addresses(copy) == expected(copy, before, first) != before
    assert addresses(first) == before


def test_a_new_workspace_at_the_former_place_stays_as_it_is(tmp_path: Path) -> None:
    first = made(tmp_path / "here")
    before = addresses(first)
    first.root.rename(tmp_path / "kept")
    again = made(tmp_path / "here", runs=("c",))
    kept = Workspace(tmp_path / "kept")
    follow_move(kept.tracking_uri)
    follow_move(again.tracking_uri)
    assert addresses(kept) == expected(kept, before, first)
    assert again.artifacts.as_uri() + "/c/artifacts" in addresses(again)["artifact_uri"]


@pytest.mark.parametrize("is_tagged", [True, False])
def test_a_database_without_its_artifacts_keeps_addresses_that_lead_somewhere(tmp_path: Path, is_tagged: bool) -> None:
    first = made(tmp_path / "first", is_tagged=is_tagged)
    before = addresses(first)
    (tmp_path / "backup").mkdir()
    shutil.copy(first.database, tmp_path / "backup")
    backup = Workspace(tmp_path / "backup")
    follow_move(backup.tracking_uri)
    assert addresses(backup) == before
    backup.artifacts.mkdir()
    follow_move(backup.tracking_uri)
    assert addresses(backup) == before


def test_an_experiment_of_an_earlier_release_is_known_by_its_runs(tmp_path: Path) -> None:
    first = made(tmp_path / "first", is_tagged=False)
    before = addresses(first)
    first.root.rename(tmp_path / "moved")
    moved = Workspace(tmp_path / "moved")
    follow_move(moved.tracking_uri)
    assert addresses(moved) == expected(moved, before, first)
    users = made(tmp_path / "users", is_tagged=False)
    shutil.move(users.artifacts, tmp_path / "elsewhere")  # where the user keeps them
    with closing(sqlite3.connect(users.database)) as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", ((tmp_path / "elsewhere").as_uri(),))
        connection.commit()
    before = addresses(users)
    users.artifacts.mkdir()
    (users.artifacts / "a").mkdir()
    follow_move(users.tracking_uri)
    assert addresses(users) == before


def test_a_folder_with_two_names_is_not_a_moved_one(tmp_path: Path) -> None:
    first = made(tmp_path / "first")
    before = addresses(first)
    (tmp_path / "link").symlink_to(first.root)
    link = Workspace(tmp_path / "link")
    follow_move(link.tracking_uri)
    assert addresses(first) == before
    assert is_folder_of(before["artifact_location"][1], link.artifacts)
    assert not is_folder_of("s3://bucket/mlartifacts", link.artifacts)


def test_processes_that_open_a_moved_workspace_at_once(tmp_path: Path) -> None:
    first = made(tmp_path / "first", runs=tuple(f"run_{number}" for number in range(200)))
    before = addresses(first)
    first.root.rename(tmp_path / "moved")
    moved = Workspace(tmp_path / "moved")
    threads = [threading.Thread(target=follow_move, args=(moved.tracking_uri,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert addresses(moved) == expected(moved, before, first)


def test_a_crash_in_the_middle_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(tmp_path / "first")
    before = addresses(first)
    first.root.rename(tmp_path / "moved")
    moved = Workspace(tmp_path / "moved")
    with monkeypatch.context() as patched:
        patched.setattr(moved_database, "_rename", crash_after_the_first_table)
        with pytest.raises(KeyboardInterrupt):
            follow_move(moved.tracking_uri)
    assert addresses(moved) == before
    follow_move(moved.tracking_uri)
    assert addresses(moved) == expected(moved, before, first)


def crash_after_the_first_table(connection: sqlite3.Connection, moves: object) -> None:
    connection.execute("UPDATE runs SET artifact_uri = 'half'")
    raise KeyboardInterrupt


def test_a_workspace_that_may_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = made(tmp_path / "first")
    before = addresses(first)
    first.root.rename(tmp_path / "moved")
    moved, connect = Workspace(tmp_path / "moved"), sqlite3.connect

    def read_only(place: str, **options: Any) -> sqlite3.Connection:
        return connect(place.replace("mode=rw", "mode=ro"), **options)

    monkeypatch.setattr("sqlite3.connect", read_only)
    with caplog.at_level(logging.WARNING):
        follow_move(moved.tracking_uri)
    (said,) = caplog.messages
    assert f"was moved from {first.root}" in said and "readonly" in said and "that you may write to" in said
    monkeypatch.undo()
    assert addresses(moved) == before
    there = present_address(moved.tracking_uri, f"{first.artifacts.as_uri()}/a/artifacts")
    assert there == f"{moved.artifacts.as_uri()}/a/artifacts"
    assert [present_address(moved.tracking_uri, one) for one in ELSEWHERE] == list(ELSEWHERE)


def test_nothing_changes_while_a_process_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = made(tmp_path / "first")
    before = addresses(first)
    first.root.rename(tmp_path / "moved")
    moved = Workspace(tmp_path / "moved")
    session = Session(moved.open_runs, "")
    session.begin("study")
    follow_move(moved.tracking_uri)
    assert addresses(moved) == before and "while a process logs to it" in caplog.text
    session.end()
    follow_move(moved.tracking_uri)
    assert addresses(moved) == expected(moved, before, first)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://host/x", "sqlite:////nowhere/mlflow.db"])
def test_what_is_no_database_of_a_workspace_is_left_alone(uri: str) -> None:
    follow_move(uri)
    assert present_address(uri, "s3://bucket/a") == "s3://bucket/a"


def test_a_file_that_is_no_database_is_left_to_its_other_readers(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    follow_move(Workspace(tmp_path).tracking_uri)
    assert (tmp_path / "mlflow.db").read_text() == "no database"
