"""Addresses of MLflow's pages, read from a database without MLflow."""

import json
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from rayvldd.errors import RayvlddError
from rayvldd.tracking.mlflow_notes import note_of_study, note_of_trial
from rayvldd.tracking.mlflow_pages import (
    is_database,
    is_server,
    page_with_columns,
    server_command,
    trials_page,
    view_of_trials,
)
from rayvldd.tracking.protocol import kind_of
from rayvldd.workspace import database_uri


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The tables and columns of MLflow that are read, with the runs of two studies and a trial."""
    file = tmp_path / "ml flow.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE runs (run_uuid, experiment_id INTEGER, start_time, lifecycle_stage)")
        connection.execute("CREATE TABLE tags (key, value, run_uuid)")
        connection.execute("CREATE TABLE experiment_tags (key, value, experiment_id INTEGER)")
        for run, experiment, started, stage, study, kind in [
            ("a", 3, 1, "active", "first", "study"),
            ("b", 3, 2, "active", "second", "study"),
            ("c", 3, 3, "active", "first", "trial"),
            ("d", 4, 4, "deleted", "first", "study"),
        ]:
            connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (run, experiment, started, stage))
            tags = [("rayvldd.study", study, run), ("rayvldd.kind", kind, run)]
            connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)
    return file


@pytest.mark.parametrize(("asked", "shown"), [("first", "first"), ("", "second")])
def test_the_page_has_the_trials_of_the_study_sorted_by_recall(database: Path, asked: str, shown: str) -> None:
    page = trials_page(database_uri(database), asked, "http://127.0.0.1:5001")
    assert page.startswith("http://127.0.0.1:5001/#/experiments/3/runs?")
    query = parse_qs(page.partition("?")[2])
    assert query["searchFilter"] == [f"tags.`rayvldd.study` = '{shown}' and tags.`rayvldd.kind` = 'trial'"]
    assert query["orderByKey"] == ["metrics.`best_val_mean_recall`"] and query["orderByAsc"] == ["false"]


def test_without_a_server_that_keeps_views_the_page_stays_as_it_is(database: Path) -> None:
    with socket.socket() as taken:  # bound, and never listening
        taken.bind(("127.0.0.1", 0))
        page = trials_page(database_uri(database), "first", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert page_with_columns(page) == page


def test_the_page_is_the_view_of_the_study_once_there_is_one(database: Path) -> None:
    key, value = view_of_trials("first", ["distillation.lr_image"])
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO experiment_tags VALUES (?, ?, 3)", (key, value))
    page = trials_page(database_uri(database), "first")
    assert page == "http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=first"
    assert page_with_columns(page) == page, "rayvldd ui opens what the sweep prints"
    assert "viewStateShareKey" not in trials_page(database_uri(database), "second")
    assert json.loads(value)["selectedColumns"] == ["metrics.`best_val_mean_recall`", "params.`distillation.lr_image`"]


def test_a_study_that_is_not_there_is_refused(database: Path, tmp_path: Path) -> None:
    with pytest.raises(RayvlddError, match="no study 'third'"):
        trials_page(database_uri(database), "third")
    with pytest.raises(RayvlddError, match="has no study"):
        trials_page(database_uri(tmp_path / "none.db"))
    (tmp_path / "other.db").write_text("no database, and longer than a header of one would be")
    with pytest.raises(RayvlddError, match="cannot be read as a database of MLflow"):
        trials_page(database_uri(tmp_path / "other.db"))


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("http://reader:secret@mlflow.test:5000/", "http://mlflow.test:5000/#/experiments/3/runs?"),
        ("https://mlflow.test/tracking", "https://mlflow.test/tracking/#/experiments/3/runs?"),
        ("postgresql+psycopg2://reader:secret@db.test/mlflow", "http://127.0.0.1:5000/#/experiments/3/runs?"),
    ],
)
def test_the_page_of_a_server_has_its_address_and_that_of_a_database_the_local_one(
    uri: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayvldd.tracking.mlflow_pages._in_server", lambda *_: ("3", "first", False))
    assert trials_page(uri, "first").startswith(page)
    assert is_server(uri) != is_database(uri)


def test_the_server_has_one_process_on_loopback(database: Path) -> None:
    words = server_command(database_uri(database), 5001)
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert (options["--host"], options["--port"], options["--workers"]) == ("127.0.0.1", "5001", "1")


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("rayvldd sweep s.yaml", "study"),
        ("sweep", "study"),
        ("rv.search", "study"),
        ("rayvldd distill s.yaml", "distill"),
        ("rv.distill", "distill"),
        ("rayvldd experts s.yaml", "experts"),
        ("", "study"),
    ],
)
def test_the_kind_of_a_record_follows_from_the_verb(command: str, kind: str) -> None:
    assert kind_of(command) == kind


def test_the_note_of_a_distillation_has_its_validation_recall() -> None:
    note = note_of_study({"best_val_mean_recall": 12.34}, None, "rayvldd distill s.yaml")
    assert note == "**12.3 % mean recall on validation**.\n\n`rayvldd distill s.yaml`"


def test_the_note_of_a_set_that_is_its_start_warns_with_the_rates_to_try() -> None:
    note = note_of_study({"best_val_mean_recall": 12.34, "try_lr_image": 3.0, "try_lr_text": 1000.0}, None, "c")
    tried = "Try `distillation.lr_image=3` and `distillation.lr_text=1000`."
    assert f"**Warning**: nothing rose above its start, so the set is its starting pairs. {tried}" in note


def test_notes_without_results_have_the_command_or_the_state() -> None:
    assert note_of_study({}, None, "rayvldd sweep tiny.yaml") == "`rayvldd sweep tiny.yaml`"
    assert note_of_trial("failed", None, None) == "No evaluation, failed."


def test_the_note_of_a_study_has_its_interval_and_its_baselines() -> None:
    metrics = {"test_mean_recall": 58.48, "test_interval_low": 57.2, "test_interval_high": 59.9}
    metrics |= {"test_random_mean_recall": 14.83, "test_full_data_mean_recall": 68.18}
    first = note_of_study(metrics, None, "c").splitlines()[0]
    assert first == "**58.5 % mean recall on test** (57.2–59.9); random pairs 14.8, all pairs 68.2."
