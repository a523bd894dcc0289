"""Runs of processes that were killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cli import run
from mlflow import MlflowClient
from mlflow.entities import Run

from rayvldd.config.study import Study
from rayvldd.tracking.opening import open_tracker
from rayvldd.tracking.protocol import Tracker
from rayvldd.workspace import Workspace

POINT = {"distillation.trajectory_matching.syn_steps": 4}
_DRIVER = """
import sys, time
from rayvldd.config.study import Study
from rayvldd.testing.toy import TOY_STUDY
from rayvldd.tracking.opening import open_tracker
from rayvldd.workspace import Workspace
workspace = Workspace(sys.argv[1])
tracker = open_tracker(None, "toy", workspace)
tracker.start_study(Study.model_validate(TOY_STUDY), "rayvldd sweep toy.yaml")
for trial in ("trial_000", "trial_001"):
    tracker.start_trial(trial, {point!r})
    tracker.log_metrics(trial, {{"val_mean_recall": 3.0}}, 0)
tracker.end_trial("trial_000", "finished", None, {{}})
tracker._outbox.wait(60)
print("logged", flush=True)
time.sleep(300)
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def driver(workspace: Workspace) -> Iterator["subprocess.Popen[str]"]:
    """A process that has two trials, of which one has ended."""
    command = [sys.executable, "-c", _DRIVER.format(point=POINT), str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "logged" in process.stdout.read(7)
        yield process
        process.kill()


def runs_of(workspace: Workspace) -> dict[str, Run]:
    found = MlflowClient(tracking_uri=workspace.tracking_uri).search_runs(["1"])
    assert len({run.info.run_name for run in found}) == len(found), "no run is there twice"
    return {run.info.run_name: run for run in found}


def statuses(workspace: Workspace) -> dict[str, str]:
    return {name: run.info.status for name, run in runs_of(workspace).items()}


def continued(workspace: Workspace, study: Study) -> Tracker:
    tracker = open_tracker(None, "toy", workspace)
    tracker.start_study(study, "rayvldd sweep toy.yaml")
    return tracker


@pytest.mark.timeout(300)
def test_runs_of_a_killed_driver_end_and_go_on(workspace: Workspace, driver: "subprocess.Popen[str]") -> None:
    from rayvldd.testing.toy import TOY_STUDY

    study = Study.model_validate(TOY_STUDY)
    # Another driver: nothing ends while the process lives.
    open_tracker(None, "another", workspace)
    run("status", "--workspace", workspace.root)
    running = {"toy": "RUNNING", "toy/000": "FINISHED", "toy/001": "RUNNING"}
    assert statuses(workspace) == running

    client = MlflowClient(tracking_uri=workspace.tracking_uri)
    of_user = client.create_run("1", run_name="mine").info.run_id
    killed_at = time.time()
    driver.send_signal(signal.SIGKILL)
    driver.wait(60)
    result = run("status", "--workspace", workspace.root)
    assert result.exit_code == 0, result.output
    assert statuses(workspace) == {"toy": "KILLED", "toy/000": "FINISHED", "toy/001": "KILLED", "mine": "RUNNING"}
    client.delete_run(of_user)
    for name in ("toy", "toy/001"):
        ended = runs_of(workspace)[name]
        assert ended.data.tags["rayvldd.interruption"] == "its process ended without a word"
        assert ended.data.tags["rayvldd.state"] == "interrupted"
        assert ended.info.start_time <= ended.info.end_time <= killed_at * 1000 + 1
    assert not list(workspace.open_runs.glob("*.json"))

    tracker = continued(workspace, study)
    assert statuses(workspace)["toy"] == "RUNNING"
    for trial in ("trial_000", "trial_001"):
        tracker.start_trial(trial, POINT)
        tracker.log_metrics(trial, {"val_mean_recall": 3.0}, 0)
        tracker.end_trial(trial, "finished", None, {})
    tracker.end_study("finished", {}, None)
    assert statuses(workspace) == {"toy": "FINISHED", "toy/000": "FINISHED", "toy/001": "FINISHED"}
    assert not any("rayvldd.interruption" in run.data.tags for run in runs_of(workspace).values())
    assert not list(workspace.open_runs.glob("*.json"))


def test_studies_on_another_machine_or_at_another_tracker_are_left_alone(
    workspace: Workspace, driver: "subprocess.Popen[str]"
) -> None:
    (note,) = workspace.open_runs.glob("*.json")
    driver.send_signal(signal.SIGKILL)
    driver.wait(60)
    text = note.read_text()
    here = text.partition('"machine": "')[2].partition('"')[0]
    for other in (
        text.replace(here, "another machine"),
        text.replace('"tracking_uri": ""', '"tracking_uri": "http://x"'),
    ):
        assert other != text
        note.write_text(other)
        open_tracker(None, "another", workspace)
        assert set(statuses(workspace).values()) == {"RUNNING", "FINISHED"} and note.is_file()
    note.write_text(text)
    open_tracker(None, "another", workspace)
    assert set(statuses(workspace).values()) == {"KILLED", "FINISHED"} and not note.is_file()
