"""Data other than metrics in MLflow, opening of its sets, and a real server that is temporarily unavailable."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cli import run
from helpers.tasks import load, random_trajectory
from mlflow import MlflowClient

from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import NEAREST, DistilledSet
from rayvldd.distillation.loop import OuterLoop
from rayvldd.distillation.set_sources import GROUP
from rayvldd.errors import StoreError
from rayvldd.tracking.mlflow_tracker import MlflowTracker
from rayvldd.tracking.protocol import Origins, Scores

ORIGINS = Origins({"data": "d" * 16, "image_encoder": "i" * 16, "text_encoder": "t" * 16}, "e" * 16)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> DistilledSet:
    """A small set, as a study hands it over."""
    from helpers.studies import TINY_STUDY

    task = load(Study.model_validate(TINY_STUDY), tiny_cache)
    loop = OuterLoop(task.study, task, [random_trajectory(task.model)], seed=0)
    loop.step()
    return loop.distilled_set({"val_mean_recall": 12.5})


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, chosen: DistilledSet) -> tuple[Path, str]:
    """A workspace whose database has one finished study, and the id of the study's run."""
    from helpers.studies import TINY_STUDY

    root = tmp_path_factory.mktemp("rayvldd_workspace")
    chosen.save(root / "best")
    tracker = MlflowTracker(f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts")
    rows = [{"pair": n, "start": f"start {n}", "nearest": f"nearest {n}", "similarity": 0.5} for n in range(4)]
    (root / "best" / NEAREST).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tracker.start_study(Study.model_validate(TINY_STUDY), "rayvldd sweep tiny.yaml")
    tracker.log_origins(None, ORIGINS)
    tracker.log_origins(None, ORIGINS)
    for _ in range(2):  # a driver that died before it recorded the end of the study reports it again
        tracker.end_study("finished", {"test_mean_recall": 11.0}, root / "best")
    return root, tracker._runs.study_run


@pytest.fixture
def workspace(registered: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAYVLDD_WORKSPACE", str(registered[0]))
    return registered[0]


def test_the_schemes_are_installed() -> None:
    assert {"models", "runs"} <= {entry.name for entry in entry_points(group=GROUP)}


@pytest.mark.parametrize("place", ["models:/tiny@best", "models:/tiny/1", "runs:/{run}", "runs:/{run}/"])
def test_a_registered_set_opens(
    place: str, workspace: Path, registered: tuple[Path, str], chosen: DistilledSet
) -> None:
    kept = sorted((workspace / "mlartifacts").rglob("*"))
    opened = DistilledSet.load(place.format(run=registered[1]))
    assert torch.equal(opened.images, chosen.images) and torch.equal(opened.texts, chosen.texts)
    assert opened.origin.metrics == {"val_mean_recall": 12.5}
    assert DistilledSet.load(Path(place.format(run=registered[1]))).start_captions == chosen.start_captions
    assert sorted((workspace / "mlartifacts").rglob("*")) == kept, "reading leaves nothing behind"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("models:/tinny@best", "cannot be fetched from sqlite:.*tinny.*not found"),
        ("models:/tiny@worst", "cannot be fetched from sqlite:.*worst.*not found"),
        ("models:/tiny/7", "cannot be fetched from sqlite:.*7.*not found"),
        ("models:/tiny", "names no version of a model; allowed: models:/STUDY@best"),
        ("runs:/0123456789abcdef0123456789abcdef/best", "cannot be fetched from sqlite:.*not found"),
        ("runs:/{run}/elsewhere", "cannot be fetched|is not a distilled set"),
        ("model:/tiny@best", r"(?s)no installed package fetches .* from model:/… \(did you mean 'models'\?\)"),
        ("s3://bucket/set", "allowed: a folder, hf:/…, models:/…, runs:/…\nNext: rayvldd compare"),
    ],
)
def test_a_uri_that_leads_to_no_set(place: str, message: str, workspace: Path, registered: tuple[Path, str]) -> None:
    with pytest.raises(StoreError, match=message):
        DistilledSet.load(place.format(run=registered[1]))


def test_a_command_looks_into_its_own_workspace(workspace: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("RAYVLDD_WORKSPACE")
    monkeypatch.chdir(tmp_path)
    asked: list[str | Path] = ["export", "models:/tiny@best", tmp_path / "pairs"]
    assert "there is no" in run(*asked).stderr
    result = run(*asked, "--workspace", workspace)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "pairs").rglob("*.png"))) == 4


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(
        StoreError, match=r"(?s)cannot be fetched from http://127.0.0.1:9: .*Next: .*MLFLOW_TRACKING_URI"
    ):
        DistilledSet.load("models:/tiny@best")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    monkeypatch.setenv("RAYVLDD_WORKSPACE", str(tmp_path))
    with pytest.raises(StoreError, match=f"there is no {tmp_path}/mlflow.db, and MLFLOW_TRACKING_URI names no other"):
        DistilledSet.load("models:/tiny@best")
    assert not list(tmp_path.iterdir()), "asking makes no database"


def test_a_study_is_registered_once_with_its_origin(registered: tuple[Path, str]) -> None:
    root, run_id = registered
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.run_id == run_id
    assert client.get_model_version_by_alias("tiny", "best").version == version.version
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    assert run.inputs is not None
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("toy_scenes", "d" * 16)
    assert json.loads(given.dataset.source)["num_train"] == 40
    tags = run.data.tags
    assert (tags["rayvldd.expert_set"], tags["rayvldd.text_encoder"]) == ("e" * 16, "t" * 16)
    assert tags["rayvldd.protocol"] == "heads_only" and tags["rayvldd.version"]


def test_captions_are_a_table_that_is_written_once(registered: tuple[Path, str], tmp_path: Path) -> None:
    root, run_id = registered
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    assert json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "captions.json", "type": "table"}
    ]
    file = Path(client.download_artifacts(run_id, "captions.json", str(tmp_path)))
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "columns": ["pair", "start", "nearest", "similarity"],
        "data": [[n, f"start {n}", f"nearest {n}", 0.5] for n in range(4)],
    }


def test_a_later_study_of_the_name_takes_over_the_alias(
    registered: tuple[Path, str], tiny_study: Study, chosen: DistilledSet, tmp_path: Path
) -> None:
    root, _ = registered
    tracker = MlflowTracker(f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts")
    other = tiny_study.model_copy(update={"name": "again"})
    chosen.save(tmp_path)
    for number in (1, 2):
        tracker.start_study(other, "rayvldd sweep tiny.yaml")
        tracker.end_study("finished", {}, tmp_path)
        version = MlflowClient(tracking_uri=tracker.uri).get_model_version_by_alias("again", "best")
        assert int(version.version) == number


def test_a_set_that_is_its_starting_pairs_is_not_registered(
    registered: tuple[Path, str], tiny_study: Study, chosen: DistilledSet, tmp_path: Path
) -> None:
    root, _ = registered
    tracker = MlflowTracker(f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts")
    chosen.save(tmp_path)
    card = tmp_path / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "outer_step": 0}))
    tracker.start_study(tiny_study.model_copy(update={"name": "flat"}), "rayvldd sweep tiny.yaml")
    tracker.end_study("finished", {}, tmp_path)
    assert not MlflowClient(tracking_uri=tracker.uri).search_registered_models("name = 'flat'")
    assert not tracker.missing


def test_an_evaluation_is_a_run_with_its_students_as_steps(registered: tuple[Path, str], tiny_study: Study) -> None:
    root, _ = registered
    tracker = MlflowTracker(f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts")
    students = tuple(
        {"mean_recall": 10.0 + n, "image_to_text_r1": float(n), "text_to_image_r10": 2.0} for n in range(3)
    )
    scores = Scores("coreset", "4 pairs, herding", tiny_study, "rayvldd coreset tiny.yaml", "test", students)
    scores = Scores(**{**vars(scores), "settings": {"coreset.method": "herding"}, "origins": ORIGINS})
    tracker.log_scores(scores)
    client = MlflowClient(tracking_uri=tracker.uri)
    (run,) = client.search_runs([tracker._experiment], "tags.`rayvldd.kind` = 'coreset'")
    assert (run.info.run_name, run.info.status) == ("4 pairs, herding", "FINISHED")
    assert run.data.params["coreset.method"] == "herding" and run.data.params["data.source"] == "toy_scenes"
    assert run.data.metrics["test_mean_recall"] == 11.0 and run.data.metrics["test_image_to_text_r1"] == 1.0
    steps = client.get_metric_history(run.info.run_id, "details/student_test_mean_recall")
    assert [(entry.step, entry.value) for entry in steps] == [(1, 10.0), (2, 11.0), (3, 12.0)]
    assert run.inputs is not None and run.inputs.dataset_inputs[0].dataset.digest == "d" * 16


# --- a server -----------------------------------------------------------------------------------------------------

NUM_TRIALS, POINTS_A_TRIAL = 8, 1250


@contextmanager
def server(root: Path, port: int) -> Iterator[None]:
    """A real MLflow server on this machine; it is killed at the end, as machines do."""
    place = ["--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}", "--artifacts-destination", str(root / "kept")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *place]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (root / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 90
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, (root / "server.log").read_text()
            time.sleep(0.2)
        yield
    finally:
        _kill_with_children(process)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except OSError:
        return False


def _kill_with_children(process: "subprocess.Popen[bytes]") -> None:
    import psutil

    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.wait(20)
    psutil.wait_procs(family, timeout=20)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.timeout(240)
def test_every_point_arrives_at_a_server_that_goes_away(
    registered: tuple[Path, str], tiny_study: Study, chosen: DistilledSet, tmp_path: Path, monkeypatch: Any
) -> None:
    """Eight trials at once report 10,000 points while the server is killed and comes back."""
    port = _free_port()
    (tmp_path / "mlflow.db").write_bytes((registered[0] / "mlflow.db").read_bytes())  # making tables takes seconds
    chosen.save(tmp_path / "best")
    half = threading.Barrier(NUM_TRIALS + 1)

    def trial(tracker: MlflowTracker, number: int) -> None:
        tracker.start_trial(f"trial_{number}", {"distillation.trajectory_matching.syn_steps": 1 + number})
        for step in range(POINTS_A_TRIAL):
            if step == POINTS_A_TRIAL // 2:
                half.wait(60)  # the server is killed now
                half.wait(60)
            tracker.log_metrics(f"trial_{number}", {"val_mean_recall": number + step / 10000}, step)
        tracker.end_trial(f"trial_{number}", "finished", None, {})

    with server(tmp_path, port):
        tracker = MlflowTracker(f"http://127.0.0.1:{port}")
        tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
        trials = [threading.Thread(target=trial, args=(tracker, number)) for number in range(NUM_TRIALS)]
        for thread in trials:
            thread.start()
        half.wait(60)
    half.wait(60)
    for thread in trials:
        thread.join(60)
    assert not any(thread.is_alive() for thread in trials), "trials wait for a server that is away"
    assert len(tracker._outbox) > 0
    with server(tmp_path, port):
        tracker.end_study("finished", {"test_mean_recall": 11.0}, tmp_path / "best")
        client = MlflowClient(tracking_uri=tracker.uri)
        runs = client.search_runs([tracker._experiment], f"tags.`mlflow.parentRunId` = '{tracker._runs.study_run}'")
        assert len(runs) == NUM_TRIALS and {run.info.status for run in runs} == {"FINISHED"}
        for run in runs:
            number = int(run.info.run_name.removeprefix("tiny/"))
            history = client.get_metric_history(run.info.run_id, "val_mean_recall")
            points = [(entry.step, entry.value) for entry in history]
            assert points == [(step, number + step / 10000) for step in range(POINTS_A_TRIAL)]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
        assert torch.equal(DistilledSet.load("models:/tiny@best").images, chosen.images), "through the server's proxy"
