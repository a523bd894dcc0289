"""A workspace that was moved or copied with its embedded MLflow."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.cli import run
from helpers.sets import write_card
from helpers.tasks import load, random_trajectory
from mlflow import MlflowClient

from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.loop import OuterLoop
from rayvldd.tracking.mlflow_tracker import MlflowTracker
from rayvldd.tracking.opening import open_tracker
from rayvldd.tracking.protocol import State
from rayvldd.workspace import Workspace

POINT = {"distillation.trajectory_matching.syn_steps": 4}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> Path:
    """The folder of a workspace with a finished study and an interrupted one."""
    from helpers.studies import TINY_STUDY

    study = Study.model_validate(TINY_STUDY)
    task = load(study, tiny_cache)
    loop = OuterLoop(study, task, [random_trajectory(task.model)], seed=0)
    loop.step()
    workspace = Workspace(tmp_path_factory.mktemp("at first 100%ü") / "work space")
    loop.distilled_set({"val_mean_recall": 12.5}).save(workspace.study("tiny") / "best")
    states: dict[str, State] = {"tiny": "finished", "halted": "interrupted"}
    for name, state in states.items():
        tracker = open_tracker(None, name, workspace)
        tracker.start_study(study.model_copy(update={"name": name}), "rayvldd sweep tiny.yaml")
        tracker.start_trial("trial_000", POINT)
        tracker.log_metrics("trial_000", {"val_mean_recall": 3.0}, 0)
        if state == "finished":
            tracker.end_trial("trial_000", state, workspace.study("tiny") / "best", {})
        tracker.end_study(state, {}, workspace.study("tiny") / "best")
        assert not tracker.missing
    return workspace.root


@pytest.fixture
def moved(logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """The workspace at another place, and nothing at the first one meanwhile."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    workspace = Workspace(tmp_path / "moved % é")
    shutil.copytree(logged, workspace.root)
    hidden = logged.rename(logged.with_name("hidden"))
    yield workspace
    assert not logged.exists(), "nothing was written to the former place"
    hidden.rename(logged)


def images_of(workspace: Workspace) -> torch.Tensor:
    return DistilledSet.load(workspace.study("tiny") / "best").images


def addresses(workspace: Workspace) -> set[str]:
    """All addresses in the database, from MLflow."""
    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    experiments = client.search_experiments(filter_string="name != 'Default'")
    found = {str(known.artifact_location) for known in experiments}
    found |= {run.info.artifact_uri for run in client.search_runs([known.experiment_id for known in experiments])}
    for version in client.search_model_versions():
        found |= {str(version.source), client.get_model_version_download_uri(version.name, version.version)}
    return found


def test_sets_open_by_their_address(moved: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("export", "models:/tiny@best", tmp_path / "pairs", "--workspace", moved.root)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "pairs").rglob("*.png"))) == 4
    monkeypatch.setenv("RAYVLDD_WORKSPACE", str(moved.root))
    assert torch.equal(DistilledSet.load("models:/tiny@best").images, images_of(moved))
    place = moved.artifacts.as_uri()
    assert all(address == place or address.startswith(f"{place}/") for address in addresses(moved))


def test_artifacts_of_trials_download(moved: Workspace, tmp_path: Path) -> None:
    open_tracker(None, "tiny", moved)
    client = MlflowClient(tracking_uri=moved.tracking_uri)
    runs = client.search_runs(["1"], "tags.`rayvldd.kind` = 'trial' and tags.`rayvldd.study` = 'tiny'")
    (trial,) = runs
    file = client.download_artifacts(trial.info.run_id, "card.json", str(tmp_path))
    assert Path(file).read_bytes() == (moved.study("tiny") / "best" / "card.json").read_bytes()


def test_runs_are_logged_in_the_new_place(moved: Workspace, tiny_study: Study, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    write_card(tmp_path / "made" / "card.json")
    tracker = open_tracker(None, "later", moved)
    tracker.start_study(tiny_study.model_copy(update={"name": "later"}), "rayvldd distill tiny.yaml")
    tracker.end_study("finished", {}, tmp_path / "made")
    assert isinstance(tracker, MlflowTracker) and not tracker.missing
    run_id = tracker._runs.study_run
    assert (moved.artifacts / run_id / "artifacts" / "card.json").is_file()
    client = MlflowClient(tracking_uri=moved.tracking_uri)
    assert [known.name for known in client.search_experiments()] == ["rayvldd", "Default"]


def test_an_interrupted_study_continues_its_runs(moved: Workspace, tiny_study: Study) -> None:
    tracker = open_tracker(None, "halted", moved)
    tracker.start_study(tiny_study.model_copy(update={"name": "halted"}), "rayvldd sweep tiny.yaml --json")
    tracker.start_trial("trial_000", POINT)
    tracker.log_metrics("trial_000", {"val_mean_recall": 4.0}, 2)
    tracker.end_trial("trial_000", "finished", None, {})
    tracker.end_study("finished", {}, None)
    client = MlflowClient(tracking_uri=moved.tracking_uri)
    runs = client.search_runs(["1"], "tags.`rayvldd.study` = 'halted'")
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("halted", "FINISHED"),
        ("halted/000", "FINISHED"),
    ]


def test_two_copies_name_their_own_artifacts(logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    first, copy = Workspace(logged), Workspace(tmp_path / "copy")
    before = addresses(first)
    shutil.copytree(logged, copy.root)
    for uri in (None, copy.tracking_uri):  # by its address, too
        open_tracker(uri, "tiny", copy)
    assert addresses(first) == before
    assert all(copy.artifacts.as_uri() in address for address in addresses(copy))
    shutil.rmtree(copy.artifacts)
    monkeypatch.setenv("RAYVLDD_WORKSPACE", str(logged))
    assert torch.equal(DistilledSet.load("models:/tiny@best").images, images_of(first))
