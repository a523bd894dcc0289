"""All trackers: every value is written once, under the right trial."""

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import NoCredentialsError
from helpers.sets import write_card
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.tracking import mlflow_tracker
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.tracking.mlflow_tracker import MlflowTracker
from rayvldd.tracking.outbox import MOST_ROWS, Dropped, Outbox, Verdict
from rayvldd.tracking.protocol import Tracker
from rayvldd.tracking.sqlite_file import ready_sqlite

POINT = {"distillation.trajectory_matching.syn_steps": 4, "distillation.trajectory_matching.lr_lr": 0.02}


@dataclass
class Written:
    """The records of a study or trial, from any tracker."""

    state: str = ""
    point: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Storage:
    """Location of a tracker, with functions that open a tracker and read its records."""

    open: Callable[[], Tracker]
    read: Callable[[], tuple[Written, dict[str, Written]]]


def wait_for_writes(tracker: Tracker) -> None:
    assert not isinstance(tracker, MlflowTracker) or tracker._outbox.wait(60)


def files_below(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


def folder_place(root: Path) -> Storage:
    folder = root / "tracking"

    def read_one(file: Path, name: str) -> Written:
        written = Written(artifacts=files_below(folder / "artifacts" / name))
        for line in file.read_text().splitlines():
            event = json.loads(line)
            written.point |= event.get("point", {})
            if event["event"] == "metrics":
                for key, value in event["metrics"].items():
                    written.metrics.setdefault(key, []).append((event["step"], value))
            elif event["event"] == "end":
                written.state, written.tags = event["state"], event.get("tags", {})
        return written

    def read() -> tuple[Written, dict[str, Written]]:
        trials = {file.stem: read_one(file, file.stem) for file in sorted((folder / "trials").glob("*.jsonl"))}
        return read_one(folder / "study.jsonl", "study"), trials

    return Storage(partial(FolderTracker, folder), read)


def mlflow_place(root: Path) -> Storage:
    uri, artifacts = f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts"

    def read_one(client: MlflowClient, run: Any) -> Written:
        return Written(
            state=run.data.tags.get("rayvldd.state", ""),
            point={key: json.loads(run.data.params[key]) for key in POINT},
            metrics={
                key: [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
            artifacts=files_below(artifacts / run.info.run_id / "artifacts"),
            tags=run.data.tags,
        )

    def read() -> tuple[Written, dict[str, Written]]:
        client = MlflowClient(tracking_uri=uri)
        runs = mlflow_runs(root)
        (study,) = [run for run in runs if run.data.tags["rayvldd.kind"] == "study"]
        trials = [run for run in runs if run.data.tags["rayvldd.kind"] == "trial"]
        assert all(run.data.tags["mlflow.parentRunId"] == study.info.run_id for run in trials)
        written = {run.data.tags["rayvldd.trial_id"]: read_one(client, run) for run in trials}
        assert len(written) == len(trials), "a trial stands there twice"
        return read_one(client, study), written

    return Storage(partial(MlflowTracker, uri, artifacts), read)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has made its tables in: each test takes a copy, for making them takes seconds."""
    root = tmp_path_factory.mktemp("mlflow")
    MlflowTracker(f"sqlite:///{root / 'mlflow.db'}")
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    (ours,) = [found for found in client.search_experiments() if found.name == "rayvldd"]
    client.rename_experiment(ours.experiment_id, "unused")
    return root / "mlflow.db"


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    """The URI of a database of the test's own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(params=[mlflow_place, folder_place], ids=["mlflow", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> Storage:
    made: Storage = request.param(tmp_path)
    return made


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "distilled_set").mkdir(parents=True)
    (folder / "distilled_set" / "card.json").write_text("{}")
    (folder / "nearest_captions.txt").write_text("a red square")
    return folder


def test_a_study_with_its_trials(place: Storage, tiny_study: Study, artifacts: Path) -> None:
    tracker = place.open()
    tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
    for trial_id in ("a", "b"):
        tracker.start_trial(trial_id, POINT)
    for step in (0, 2, 4):
        tracker.log_metrics("a", {"val_mean_recall": 10.0 + step, "matching_loss": 1.0}, step)
        tracker.log_metrics("b", {"val_mean_recall": 5.0 + step}, step)
    tracker.log_metrics(None, {"best_val_mean_recall": 14.0}, 1)
    tracker.end_trial("a", "finished", artifacts, {"note": "best"})
    tracker.end_trial("b", "stopped", None, {})
    tracker.end_study("finished", {"test_mean_recall": 13.5}, artifacts)

    study, trials = place.read()
    assert study.state == "finished"
    assert study.metrics["best_val_mean_recall"] == [(1, 14.0)]
    assert "distilled_set/card.json" in study.artifacts
    assert trials["a"].point == POINT
    assert trials["a"].metrics["val_mean_recall"] == [(0, 10.0), (2, 12.0), (4, 14.0)]
    assert trials["a"].artifacts == {"distilled_set/card.json": "{}", "nearest_captions.txt": "a red square"}
    assert trials["a"].tags["note"] == "best"
    assert (trials["a"].state, trials["b"].state) == ("finished", "stopped")
    assert trials["b"].artifacts == {}
    assert "matching_loss" not in trials["b"].metrics


def test_a_study_that_continues_duplicates_nothing(place: Storage, tiny_study: Study, artifacts: Path) -> None:
    first = place.open()
    first.start_study(tiny_study, "rayvldd sweep tiny.yaml")
    for trial_id in ("a", "b"):
        first.start_trial(trial_id, POINT)
        first.log_metrics(trial_id, {"val_mean_recall": 1.0}, 0)
        first.log_metrics(trial_id, {"val_mean_recall": 2.0}, 2)
    first.log_metrics(None, {"best_val_mean_recall": 2.0}, 1)
    first.end_trial("a", "finished", artifacts, {})
    wait_for_writes(first)  # and then the driver is killed

    second = place.open()
    second.start_study(tiny_study, "rayvldd sweep tiny.yaml --json")
    for trial_id in ("a", "b", "c"):
        second.start_trial(trial_id, POINT)
    second.log_metrics("b", {"val_mean_recall": 2.0}, 2)  # a step that was reported after the last checkpoint
    second.log_metrics("b", {"val_mean_recall": 3.0}, 4)
    second.log_metrics("c", {"val_mean_recall": 1.5}, 0)
    second.log_metrics(None, {"best_val_mean_recall": 2.0}, 1)
    for trial_id in ("a", "b", "c"):
        second.end_trial(trial_id, "finished", artifacts, {})
    second.end_study("finished", {"test_mean_recall": 3.0}, None)

    study, trials = place.read()
    assert sorted(trials) == ["a", "b", "c"]
    assert trials["a"].metrics["val_mean_recall"] == [(0, 1.0), (2, 2.0)]
    assert trials["b"].metrics["val_mean_recall"] == [(0, 1.0), (2, 2.0), (4, 3.0)]
    assert study.metrics["best_val_mean_recall"] == [(1, 2.0)]
    assert {trial.state for trial in trials.values()} == {"finished"}


def test_trials_left_open_end_as_interrupted_and_go_on_later(place: Storage, tiny_study: Study) -> None:
    tracker = place.open()
    tracker.start_study(tiny_study, "sweep")
    tracker.start_trial("a", POINT)
    tracker.log_metrics("a", {"val_mean_recall": 1.0}, 0)
    tracker.end_study("interrupted", {"val_mean_recall": 1.0}, None)
    study, trials = place.read()
    assert (study.state, trials["a"].state) == ("interrupted", "interrupted")

    tracker = place.open()
    tracker.start_study(tiny_study, "sweep")
    tracker.start_trial("a", POINT)
    tracker.log_metrics("a", {"val_mean_recall": 2.0}, 2)
    tracker.end_trial("a", "failed", None, {"reason": "diverged"})
    tracker.end_study("finished", {"val_mean_recall": 2.0}, None)
    study, trials = place.read()
    assert (study.state, trials["a"].state) == ("finished", "failed")
    assert trials["a"].tags["reason"] == "diverged"
    assert trials["a"].metrics["val_mean_recall"] == [(0, 1.0), (2, 2.0)]


def test_a_place_that_cannot_be_written_fails_before_work_starts(
    place: Storage, tiny_study: Study, tmp_path: Path
) -> None:
    for name in ("tracking", "mlflow.db"):
        (tmp_path / name).write_text("a file that is in the way, and no database")
    with pytest.raises(RayvlddError, match=r"--workspace FOLDER|--tracking-uri none"):
        place.open().start_study(tiny_study, "sweep")


def mlflow_runs(root: Path) -> list[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def test_mlflow_parameters_and_statuses(database: str, tmp_path: Path, tiny_study: Study) -> None:
    searched = tiny_study.model_copy(update={"name": "x" * 600})
    tracker = MlflowTracker(database, tmp_path / "mlartifacts")
    tracker.start_study(searched, "sweep")
    for trial_id in ("finished", "stopped", "failed", "interrupted"):
        tracker.start_trial(trial_id, POINT)
        tracker.end_trial(trial_id, trial_id, None, {})
    tracker.end_study("finished", {}, None)
    found = mlflow_runs(tmp_path)
    runs = {run.data.tags.get("rayvldd.trial_id", run.info.run_name): run for run in found}
    statuses = {name: runs[name].info.status for name in ("finished", "stopped", "failed", "interrupted")}
    expected = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
    assert statuses == expected
    study = runs[searched.name]
    assert study.data.params["name"] == "x" * 500
    assert study.data.params["data.source"] == "toy_scenes"
    assert study.data.params["model.lora.targets"] == '["qkv"]'
    assert "model.image_encoder.weights" not in study.data.params
    trial = runs["finished"]
    assert trial.info.run_name == f"{searched.name}/finished"
    assert trial.data.params == {key: json.dumps(value) for key, value in POINT.items()}, "fixed ones are the study's"
    assert trial.data.tags["rayvldd.searched"] == ", ".join(POINT)


def test_mlflow_describes_runs_by_their_result(
    database: str, tmp_path: Path, tiny_study: Study, artifacts: Path
) -> None:
    (artifacts / "distilled_set" / "before_after.jpg").write_bytes(b"")
    tracker = MlflowTracker(database, tmp_path / "mlartifacts")
    tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
    tracker.start_trial("trial_007", POINT)
    tracker.log_metrics("trial_007", {"best_val_mean_recall": 12.34}, 0)
    tracker.end_trial("trial_007", "stopped", artifacts, {})
    tracker.end_study("finished", {"test_mean_recall": 13.5, "test_random_mean_recall": 4.0}, None)
    notes = {
        run.info.run_name: (run.data.tags["mlflow.note.content"], run.info.run_id) for run in mlflow_runs(tmp_path)
    }
    assert notes["tiny"][0] == "**13.5 % mean recall on test**; random pairs 4.0.\n\n`rayvldd sweep tiny.yaml`"
    text, run_id = notes["tiny/007"]
    assert text.startswith("**12.3 % mean recall on validation**, stopped.")
    assert f"(get-artifact?path=distilled_set/before_after.jpg&run_uuid={run_id})" in text


def test_mlflow_compares_by_mean_recall_before_anything_is_chosen(
    database: str, tmp_path: Path, tiny_study: Study
) -> None:
    tracker = MlflowTracker(database, tmp_path / "mlartifacts")
    tracker.start_study(tiny_study, "sweep")
    tracker.start_trial("a", POINT)
    tracker.log_metrics("a", {"matching_loss": 1.0, "val_image_to_text_r1": 2.0, "val_mean_recall": 3.0}, 0)
    tracker.end_trial("a", "finished", None, {})
    tracker.end_study("finished", {}, None)
    (trial,) = [run for run in mlflow_runs(tmp_path) if run.info.run_name == "tiny/a"]
    named = ["val_mean_recall", "compare/val_mean_recall", "matching_loss", "val_image_to_text_r1"]
    assert list(trial.data.metrics) == named
    assert trial.data.metrics["compare/val_mean_recall"] == trial.data.metrics["val_mean_recall"] == 3.0


def test_mlflow_finished_studies_are_not_continued(database: str, tmp_path: Path, tiny_study: Study) -> None:
    """Somebody who deletes a study's folder and runs it again wants a second record, not a changed first one."""
    for _ in range(2):
        tracker = MlflowTracker(database, tmp_path / "mlartifacts")
        tracker.start_study(tiny_study, "sweep")
        tracker.end_study("finished", {}, None)
    assert len(mlflow_runs(tmp_path)) == 2


def test_mlflow_finished_study_without_a_result_has_one_run(
    database: str, tmp_path: Path, tiny_study: Study, artifacts: Path
) -> None:
    """Killed after its run was closed and before its result was written, a study ends a second time."""
    for was_ending in (False, True):
        tracker = MlflowTracker(database, tmp_path / "mlartifacts")
        tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml", was_ending=was_ending)
        tracker.log_metrics(None, {"best_val_mean_recall": 2.0}, 1)
        tracker.end_study("finished", {"test_mean_recall": 3.0}, artifacts)
        assert tracker.missing == ()
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "FINISHED" and run.data.metrics["test_mean_recall"] == 3.0
    assert len(MlflowClient(tracking_uri=database).get_metric_history(run.info.run_id, "best_val_mean_recall")) == 1


@pytest.mark.parametrize("change", ["command", "settings", "origin"])
def test_mlflow_continues_no_other_study(database: str, tmp_path: Path, tiny_study: Study, change: str) -> None:
    MlflowTracker(database, origin="/one").start_study(tiny_study, "sweep")
    other = tiny_study.model_copy(update={"seed": 8}) if change == "settings" else tiny_study
    tracker = MlflowTracker(database, origin="/two" if change == "origin" else "/one")
    tracker.start_study(other, "distill" if change == "command" else "sweep")
    assert len(mlflow_runs(tmp_path)) == 2


def test_mlflow_continues_a_study_whose_choice_and_budget_changed(
    database: str, tmp_path: Path, tiny_study: Study
) -> None:
    """Settings that may change in an unfinished study create no second record of it or its trials."""
    first = study_with_front(tiny_study, num_pairs=2)
    tracker = MlflowTracker(database, tmp_path / "mlartifacts", origin="/one")
    folder = StudyFolder(tmp_path / "study")
    with folder.opened(first):
        tracker.start_study(first, "rayvldd sweep tiny.yaml")
        tracker.start_trial("trial_000", POINT)
        tracker.log_metrics("trial_000", {"val_mean_recall": 3.0}, 0)
        tracker.end_trial("trial_000", "finished", None, {})
        tracker.end_study("failed", {}, None)
    again = study_with_front(tiny_study, num_pairs=500, num_trials=40, num_finalists=1, finalist_seeds=2)
    with folder.opened(again):
        tracker = MlflowTracker(database, tmp_path / "mlartifacts", origin="/one")
        tracker.start_study(again, "rayvldd sweep tiny.yaml --set search.choose.at_most='{num_pairs: 500}'")
        for trial_id in ("trial_000", "trial_001"):
            tracker.start_trial(trial_id, POINT)
            tracker.log_metrics(trial_id, {"val_mean_recall": 3.0}, 0)
            tracker.end_trial(trial_id, "finished", None, {})
        tracker.end_study("finished", {}, None)
    runs = mlflow_runs(tmp_path)
    assert sorted(run.info.run_name for run in runs) == ["tiny", "tiny/000", "tiny/001"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def study_with_front(study: Study, num_pairs: int, **search: int) -> Study:
    """The study with two objectives, a bound on the pairs, and other settings of the search."""
    values = study.model_dump(mode="json")
    values["search"] |= {
        "objectives": ["val_mean_recall", "num_pairs"],
        "scheduler": "none",
        "choose": {"at_most": {"num_pairs": num_pairs}},
        **search,
    }
    return Study.model_validate(values)


def test_mlflow_in_a_folder_that_was_moved(
    empty_database: Path, tmp_path: Path, tiny_study: Study, artifacts: Path
) -> None:
    """An experiment's artifact folder is for ever; artifacts must not go where the workspace used to be."""
    old, new = tmp_path / "old", tmp_path / "new ü%'#"
    old.mkdir()
    shutil.copy(empty_database, old)
    MlflowTracker(f"sqlite:///{old / 'mlflow.db'}", old / "mlartifacts")
    old.rename(new)
    tracker = MlflowTracker(f"sqlite:///{new / 'mlflow.db'}", new / "mlartifacts")
    tracker.start_study(tiny_study, "sweep")
    tracker.end_study("finished", {}, artifacts)
    (run,) = mlflow_runs(new)
    assert files_below(new / "mlartifacts" / run.info.run_id / "artifacts") == files_below(artifacts)
    assert not old.exists()


def test_mlflow_experiment_that_was_deleted(database: str) -> None:
    MlflowTracker(database)
    client = MlflowClient(tracking_uri=database)
    (ours,) = [found for found in client.search_experiments() if found.name == "rayvldd"]
    client.delete_experiment(ours.experiment_id)
    with pytest.raises(RayvlddError, match=f"was deleted\nNext: .* restore --experiment-id {ours.experiment_id}"):
        MlflowTracker(database)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://x"])
def test_mlflow_uri_that_does_not_answer(uri: str) -> None:
    started = time.perf_counter()
    with pytest.raises(RayvlddError, match=f"tracking URI {uri}: cannot be used.*(\n.*)*--tracking-uri none"):
        MlflowTracker(uri)
    assert time.perf_counter() - started < 60, "MLflow itself would try for minutes"


def test_mlflow_server_that_goes_away_for_a_while(
    database: str,
    tmp_path: Path,
    tiny_study: Study,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = MlflowTracker(database, tmp_path / "mlartifacts")
    tracker.start_study(tiny_study, "sweep")
    with monkeypatch.context() as away:
        away.setattr(tracker._client, "create_run", _raise_no_answer)
        tracker.start_trial("a", POINT)
        for step in range(3):
            tracker.log_metrics("a", {"val_mean_recall": step}, step)
        assert not tracker._outbox.wait(0.5)
    tracker.end_trial("a", "finished", None, {})
    tracker.end_study("finished", {}, None)
    # Ray and MLflow may log messages in the meantime.
    told = [record.message for record in caplog.records if record.name.startswith("rayvldd")]
    assert [message.split(":")[0] for message in told] == [
        f"the tracking server {tracker.uri} does not answer; writes are queued in the meantime".split(":")[0]
    ]
    _, trials = mlflow_place(tmp_path).read()
    assert trials["a"].metrics["val_mean_recall"] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert trials["a"].state == "finished"


def test_mlflow_server_that_stays_away(
    database: str, tiny_study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(database)
    tracker.start_study(tiny_study, "sweep")
    monkeypatch.setitem(mlflow_tracker._PATIENCE_S, "finished", 0.2)
    monkeypatch.setattr(tracker._client, "create_run", _raise_no_answer)
    tracker.start_trial("a", POINT)
    tracker.end_study("finished", {}, None)
    assert "did not answer for 0 s: 6 writes are missing there; the workspace has everything" in caplog.text
    monkeypatch.undo()
    assert tracker._outbox.wait(20), "a later answer is still taken"


@pytest.mark.parametrize(
    "error",
    [
        NoCredentialsError(),
        MlflowException("forbidden", error_code=PERMISSION_DENIED),
        PermissionError(13, "Permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_mlflow_run_ends_without_the_artifacts_that_are_not_taken(
    database: str,
    tmp_path: Path,
    tiny_study: Study,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    artifacts = tmp_path / "set"
    write_card(artifacts / "card.json", outer_step=2)

    def write() -> MlflowTracker:
        tracker = MlflowTracker(database, tmp_path / "mlartifacts")
        tracker.start_study(tiny_study, "sweep")
        tracker.start_trial("a", POINT)
        tracker.end_trial("a", "stopped", artifacts, {"reason": "x"})
        tracker.end_study("finished", {"best": 1.0}, artifacts)
        return tracker

    with monkeypatch.context() as refusing:
        refusing.setattr(MlflowClient, "log_artifacts", refuse)
        tracker = write()
    study, trials = mlflow_place(tmp_path).read()
    assert (study.state, trials["a"].state) == ("finished", "stopped")
    assert trials["a"].tags["rayvldd.missing"].startswith("the artifacts of a: ")
    assert [missing.split(":")[0] for missing in tracker.missing] == [
        "the artifacts of a",
        "the artifacts of the study",
        "the model version",
    ]
    assert caplog.text.count("which is dropped: the artifacts") == 1, "said once"

    assert write().missing == (), "the same again sends what was missing"
    study, trials = mlflow_place(tmp_path).read()
    assert "rayvldd.missing" not in {**study.tags, **trials["a"].tags}
    assert trials["a"].artifacts == {"card.json": (artifacts / "card.json").read_text(encoding="utf-8")}
    assert len(MlflowClient(tracking_uri=database).search_model_versions(f"name = '{tiny_study.name}'")) == 1


def test_mlflow_artifacts_are_tried_before_any_work(
    database: str, tmp_path: Path, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NoCredentialsError

    tracker = MlflowTracker(database, tmp_path / "mlartifacts")
    with monkeypatch.context() as refusing:
        refusing.setattr(LocalArtifactRepository, "log_artifact", refuse)
        with pytest.raises(RayvlddError, match=r"artifacts cannot be written to .*Unable to locate credentials"):
            tracker.start_study(tiny_study, "sweep")
    client = MlflowClient(tracking_uri=database)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(ids)] == ["KILLED"]
    tracker.start_study(tiny_study, "sweep")
    assert [run.info.status for run in client.search_runs(ids)] == ["RUNNING"], "the same run continues"
    assert [path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()] == []


def test_mlflow_database_that_was_killed_half_made_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    database = f"sqlite:///{file}"
    for statement in (
        "CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
    ):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(statement)
            connection.commit()
        (tmp_path / ".mlflow.db.01234567.part").write_text("of a process that died")
        MlflowTracker(database, tmp_path / "mlartifacts")
        assert len(list(tmp_path.glob("mlflow.db.half_made.*"))) == 1
        for left in (file, *tmp_path.glob("mlflow.db.half_made.*")):
            left.unlink()
        assert not list(tmp_path.glob(".mlflow.db.*.part*"))


def test_mlflow_database_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill at the worst moment: the last step before the name is given."""
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if target == tmp_path / "mlflow.db":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            MlflowTracker(database)
    assert not (tmp_path / "mlflow.db").exists()
    MlflowTracker(database)


def test_mlflow_database_with_foreign_runs_is_not_changed(tmp_path: Path) -> None:
    """One of another release is for MLflow to judge, whatever its tables are."""
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.execute("INSERT INTO runs VALUES ('x')")
        connection.commit()
    before = file.read_bytes()
    ready_sqlite(file)
    assert file.read_bytes() == before


def _raise_no_answer(*_: Any, **__: Any) -> None:
    raise MlflowException("API request to http://server failed with exception: connection refused")


class Server:
    """A fake that records accepted writes, and can be unavailable, reject writes or block its callers."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.threads: set[int] = set()
        self.is_away = False
        self.open = threading.Event()
        self.open.set()

    def write(self, number: int) -> None:
        self.write_rows([number])

    def write_rows(self, rows: list[int]) -> None:
        assert self.open.wait(20)
        self.threads.add(threading.get_ident())
        if self.is_away:
            raise ConnectionError("no route")
        if min(rows) < 0:
            raise ValueError("negative")
        self.taken.append(rows)


def outbox_of(server: Server) -> Outbox:
    def verdict(error: Exception) -> Verdict:
        if isinstance(error, ConnectionError):
            return Verdict.AWAY
        if isinstance(error, ValueError):
            return Verdict.REFUSED
        raise error  # like a client whose errors cannot be inspected

    return Outbox("the server", verdict, first_retry_s=0.01)


def test_outbox_keeps_order_without_blocking(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    outbox = outbox_of(server)
    server.is_away = True
    for number in (1, 2, 3):
        outbox.put("a", partial(server.write, number))
    assert not outbox.wait(0.1) and len(outbox) == 3
    server.is_away = False
    assert outbox.wait(20) and server.taken == [[1], [2], [3]]
    assert [record.message for record in caplog.records] == [
        "the server does not answer; writes are queued in the meantime: no route"
    ]
    server.is_away = True  # the next outage is logged again
    outbox.put("a", partial(server.write, 4))
    assert not outbox.wait(0.05)
    server.is_away = False
    assert outbox.wait(20) and server.taken[-1] == [4] and len(caplog.records) == 2


def test_outbox_writes_rows_of_a_lane_together() -> None:
    server = Server()
    outbox = outbox_of(server)
    server.open.clear()
    outbox.put("b", partial(server.write, 0))  # the writer waits here while the other writes are queued
    for number in (1, 2, 3):
        outbox.put("a", server.write_rows, [number, 10 * number])
        outbox.put("b", server.write_rows, [100 * number])
    outbox.put("a", partial(server.write, 4))
    outbox.put("a", server.write_rows, [5])
    server.open.set()
    assert outbox.wait(20)
    assert server.taken == [[0], [1, 10, 2, 20, 3, 30], [100, 200, 300], [4], [5]]


def test_outbox_sends_no_more_rows_than_a_server_takes() -> None:
    server = Server()
    outbox = outbox_of(server)
    server.open.clear()
    for _ in range(25):
        outbox.put("a", server.write_rows, [0] * 99)
    server.open.set()
    assert outbox.wait(20)
    sizes = [len(rows) for rows in server.taken]
    assert sum(sizes) == 25 * 99 and max(sizes) == 990 <= MOST_ROWS and len(sizes) < 6


def test_outbox_drops_only_rejected_writes(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    outbox = outbox_of(server)
    server.open.clear()
    outbox.put("b", partial(server.write, 0))
    for number in (1, -1, 2):
        outbox.put("a", server.write_rows, [number])
    server.open.set()
    assert outbox.wait(20)
    assert server.taken == [[0], [1], [2]]
    assert [record.message for record in caplog.records] == [
        "the server did not take a write, which is dropped: a write of a: negative"
    ]
    assert outbox.dropped == [Dropped("a", "a write of a", "negative")]


def test_outbox_keeps_a_write_that_failed_for_no_known_reason(caplog: pytest.LogCaptureFixture) -> None:
    server, errors = Server(), [KeyError("AWS_PROFILE"), RuntimeError("changed size")]

    def write() -> None:
        if errors:
            raise errors.pop(0)
        server.write(1)

    outbox = outbox_of(server)
    outbox.put("a", write)
    outbox.put("a", partial(server.write, 2))
    assert outbox.wait(20) and server.taken == [[1], [2]] and outbox.dropped == []
    assert len(caplog.records) == 1


def test_outbox_is_not_blocked_by_writes_that_never_succeed(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    def write() -> None:
        raise KeyError("a fault of ours")

    outbox = outbox_of(server)
    for _ in range(3):
        outbox.put("a", write, what="metrics of a")
    outbox.put("a", partial(server.write, 1))
    assert outbox.wait(20) and server.taken == [[1]]
    assert [str(dropped) for dropped in outbox.dropped] == ["metrics of a: 'a fault of ours'"] * 3
    assert sum("is dropped" in record.message for record in caplog.records) == 1, "said once"


def test_outbox_has_one_writer_however_many_put() -> None:
    server, writing, overlaps = Server(), threading.Lock(), []

    def write(number: int) -> None:
        if not writing.acquire(blocking=False):
            overlaps.append(number)
            return
        try:
            server.write(number)
        finally:
            writing.release()

    outbox = outbox_of(server)

    def put(lane: int) -> None:
        for number in range(200):
            outbox.put(str(lane), partial(write, 1000 * lane + number))

    threads = [threading.Thread(target=put, args=(lane,)) for lane in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.wait(60) and not overlaps
    assert sorted(rows[0] for rows in server.taken) == [1000 * lane + n for lane in range(8) for n in range(200)]
    for lane in range(8):
        of_lane = [rows[0] for rows in server.taken if rows[0] // 1000 == lane]
        assert of_lane == sorted(of_lane)
