"""``rayvldd ui``: MLflow's server with the page of a study."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers.cli import last_object, run
from helpers.studies import ONE_RATE_OF_TWO, TINY_STUDY

from rayvldd.cli.interrupts import exit_code_of
from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.config.study import Study
from rayvldd.tracking.mlflow_tracker import MlflowTracker
from rayvldd.workspace import Workspace


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose MLflow has a study without trials."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    tracker = MlflowTracker(workspace.tracking_uri, workspace.artifacts)
    study = Study.model_validate({**TINY_STUDY, "search": ONE_RATE_OF_TWO})
    tracker.start_study(study, "rayvldd sweep tiny.yaml")
    tracker.end_study("finished", {}, None)
    return workspace.root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_server_answers_until_ctrl_c(logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    port = free_port()
    command = [sys.executable, "-m", "rayvldd", "ui", "tiny", "--no-browser", "--port", str(port)]
    command += ["--workspace", str(logged)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None and ui.stderr is not None
        try:
            first = ui.stderr.readline().strip()
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0, "it says so before the server answers"
            page = next(line for line in ui.stdout if line.startswith("http")).strip()
            answers = status_of(page)
            view = shared_view(page)
        finally:
            ui.send_signal(signal.SIGINT)
        errors = ui.stderr.read()
        assert ui.wait(60) == exit_code_of(KeyboardInterrupt())
    assert "Application startup complete" in errors and "Warning" not in errors
    uri = Workspace(logged).tracking_uri
    assert first == f"starting MLflow for {uri} at 127.0.0.1:{port}; the page follows when it answers"
    assert answers == 200
    assert page.endswith("/runs?workflowType=machine_learning&viewStateShareKey=tiny")
    assert view == {
        "searchFilter": "tags.`rayvldd.study` = 'tiny' and tags.`rayvldd.kind` = 'trial'",
        "orderByKey": "metrics.`best_val_mean_recall`",
        "orderByAsc": False,
        "selectedColumns": ["metrics.`best_val_mean_recall`", "params.`distillation.lr_image`"],
    }
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server has ended"


def status_of(page: str) -> int:
    with urlopen(page.partition("#")[0], timeout=60) as answer:
        return int(answer.status)


def shared_view(page: str) -> dict[str, object]:
    """The view that MLflow keeps for the address of a page."""
    base, _, rest = page.partition("/#/experiments/")
    experiment, _, _ = rest.partition("/")
    with urlopen(f"{base}/api/2.0/mlflow/experiments/get?experiment_id={experiment}", timeout=60) as answer:
        tags = {tag["key"]: tag["value"] for tag in json.load(answer)["experiment"]["tags"]}
    view: dict[str, object] = json.loads(tags["mlflow.sharedViewState.tiny"])
    return view


def test_dry_run_prints_the_page_and_starts_nothing(logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = run("ui", "--workspace", logged, "--dry-run", "--json")
    assert last_object(result)["page"].startswith("http://127.0.0.1:5000/#/experiments/")


def test_a_server_that_cannot_start_is_not_announced(logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr("rayvldd.tracking.mlflow_pages.server_command", lambda *_: command)
    monkeypatch.setattr("webbrowser.open", lambda _: pytest.fail("a page that does not exist is opened"))
    port = free_port()
    result = run("ui", "tiny", "--workspace", logged, "--port", str(port))
    assert result.exit_code == EXIT_USER_ERROR and "ended with code 3" in result.output
    assert "http://" not in result.output and "Ctrl-C" not in result.output
    assert f"Next: rayvldd ui tiny --port {port + 1} --workspace {logged}" in result.output


def test_passwords_of_addresses_are_not_shown(logged: Path) -> None:
    for uri in ("ftp://reader:secret@host/x", "http://reader:secret@127.0.0.1:9"):
        result = run("ui", "--workspace", logged, "--tracking-uri", uri, "--json", "--dry-run")
        assert result.exit_code == EXIT_USER_ERROR
        assert "secret" not in result.output and "reader:***@" in result.output


def test_a_used_port_an_unknown_study_and_no_tracker_are_refused(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("ui", "--workspace", logged)
    assert result.exit_code == EXIT_USER_ERROR and "the tracker is none" in result.output
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        result = run("ui", "tiny", "--workspace", logged, "--port", port)
    assert result.exit_code == EXIT_USER_ERROR
    assert f"port {port} is in use" in result.output
    assert f"Next: rayvldd ui tiny --port {port + 1} --workspace {logged}" in result.output
    result = run("ui", "another", "--workspace", logged)
    assert result.exit_code == EXIT_USER_ERROR and "no study 'another'" in result.output
    shutil.copytree(logged, tmp_path / "empty", ignore=lambda *_: ["mlflow.db"])
    assert "has no study" in run("ui", "--workspace", tmp_path / "empty").output
