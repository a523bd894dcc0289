"""Trackers beside MLflow: the contract of trackers, what the tools read, and the option that chooses one."""

import json
import os
import struct
import time
from collections import defaultdict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import run
from PIL import Image

from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.cli.sweep import command as sweep_command
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.testing import check_tracker
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.tracking.opening import open_tracker
from rayvldd.tracking.protocol import Origins, Scores, State, Tracker
from rayvldd.tracking.tensorboard_tracker import TensorboardTracker
from rayvldd.workspace import Workspace

Values = dict[str, dict[int, float]]
METRIC = "val_mean_recall"


def scalars(folder: Path) -> dict[str, Values]:
    """Run -> metric -> step -> value, from the event files of TensorBoard."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, Values] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        content, start = file.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = Event.FromString(content[start + 12 : start + 12 + length])
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    values = found[str(file.parent.relative_to(folder))][value.tag]
                    assert event.step not in values, f"{value.tag} at step {event.step} was written twice"
                    values[event.step] = round(value.simple_value, 4)
            start += 16 + length
    return found


def histories(folder: Path) -> dict[str, Values]:
    """Name of the run -> metric -> step -> value, from the files of runs of Weights & Biases that are offline."""
    found: dict[str, Values] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(folder.rglob("run-*.wandb")):
        name = ""
        for record in records_of_ended_run(file):
            name = record.run.display_name or name
            values = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            for key, value in values.items():
                if not key.startswith("_"):
                    found[name][key][int(values["_step"])] = json.loads(value)
    return found


def records_of_ended_run(file: Path, seconds: float = 120.0) -> list[Any]:
    """The records of a run, once its exit is among them: a process of wandb's own writes them, and ``finish`` returns
    before it has written the last ones."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        records = records_in(file.read_bytes())
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{file}: no exit within {seconds:g} s")


def records_in(content: bytes) -> list[Any]:
    """The whole records of a file of Weights & Biases; the last one may be half written."""
    record_class = import_module("wandb.proto.wandb_internal_pb2").Record  # made when it is imported
    found, start = [], 7
    while start + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, start)
        start += 7 + length
        if start > len(content):
            break
        assert kind == 1, "a record that spans blocks of 32 KiB"
        found.append(record_class.FromString(content[start - length : start]))
    return found


def test_plain_files_keep_the_contract(tmp_path: Path) -> None:
    def written() -> Mapping[str, Mapping[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for file in (tmp_path / "tracking" / "trials").glob("*.jsonl"):
            events = [json.loads(line) for line in file.read_text().splitlines()]
            metrics = [event for event in events if event["event"] == "metrics"]
            found[file.stem] = {event["step"]: event["metrics"][METRIC] for event in metrics}
        return found

    check_tracker(lambda: FolderTracker(tmp_path / "tracking"), written, tmp_path / "made")


def test_tensorboard_keeps_the_contract(tmp_path: Path) -> None:
    check_tracker(
        lambda: TensorboardTracker(tmp_path / "tracking"),
        lambda: {run: values[METRIC] for run, values in scalars(tmp_path / "tracking" / "tensorboard").items()},
        tmp_path / "made",
    )


def test_tensorboard_repeats_no_event_of_a_study_that_is_resumed_or_repeated(tmp_path: Path, tiny_study: Study) -> None:
    made = tmp_path / "made"
    made.mkdir()
    Image.new("RGB", (4, 4)).save(made / "before_after.jpg")

    def send(state: State) -> None:
        tracker = TensorboardTracker(tmp_path / "tracking")
        tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
        tracker.start_trial("trial_000", {"distillation.lr_image": 20.0})
        tracker.log_metrics("trial_000", {"best_val_mean_recall": 3.5}, 2)
        tracker.end_trial("trial_000", "finished", made, {})
        tracker.log_metrics(None, {"best_val_mean_recall": 3.5}, 1)
        tracker.end_study(state, {"best_val_mean_recall": 3.5} if state == "finished" else {}, made)

    states: tuple[State, ...] = ("interrupted", "finished", "finished")
    for state in states:
        send(state)
    found = scalars(tmp_path / "tracking" / "tensorboard")  # which refuses a step that was written twice
    assert found["study"]["best_val_mean_recall"] == {1: 3.5, 2: 3.5}
    files = (tmp_path / "tracking" / "tensorboard" / "trial_000").glob("events.*")
    assert b"".join(file.read_bytes() for file in files).count(b"PNG") == 1
    events = [json.loads(line) for line in (tmp_path / "tracking" / "study.jsonl").read_text().splitlines()]
    assert [event.get("state") for event in events] == [None, "interrupted", "finished"]


def test_tensorboard_has_pictures_hyperparameters_and_scores(tmp_path: Path, tiny_study: Study) -> None:
    made = tmp_path / "made"
    made.mkdir()
    Image.new("RGB", (4, 4)).save(made / "before_after.jpg")
    tracker = TensorboardTracker(tmp_path / "tracking")
    tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
    tracker.start_trial("trial_000", {"distillation.lr_image": 20.0})
    tracker.log_metrics("trial_000", {"best_val_mean_recall": 3.5}, 2)
    tracker.end_trial("trial_000", "finished", made, {})
    tracker.end_study("finished", {"test_mean_recall": 13.5}, None)
    students = ({"mean_recall": 1.0}, {"mean_recall": 2.0})
    for _ in range(2):
        tracker.log_scores(Scores("coreset", "4 pairs, herding", tiny_study, "c", "test", students, {}, Origins({})))
    found = scalars(tracker.events)
    assert found["study"]["test_mean_recall"] == {0: 13.5}
    assert found["trial_000/hparams"]["hparam/best_val_mean_recall"] == {0: 3.5}
    for name in ("coreset_4_pairs__herding", "coreset_4_pairs__herding_2"):
        assert found[name]["test_mean_recall"] == {0: 1.0, 1: 2.0}
    events = b"".join(file.read_bytes() for file in (tracker.events / "trial_000").glob("events.*"))
    assert b"before_after" in events and b"PNG" in events


def test_wandb_keeps_the_contract_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    from rayvldd.tracking.wandb_tracker import WandbTracker

    def written() -> Mapping[str, Mapping[int, float]]:
        found = histories(tmp_path / "tracking")
        return {f"trial_{name.partition('/')[2]}": values[METRIC] for name, values in found.items() if "/" in name}

    check_tracker(lambda: WandbTracker(tmp_path / "tracking"), written, tmp_path / "made")


class RunOfWandb:
    """A run of Weights & Biases whose service ends."""

    url = "https://wandb.test/run"

    def __init__(self) -> None:
        self.summary: dict[str, object] = {}

    def log(self, *_: object, **__: object) -> None:
        raise ConnectionError("the service ended")

    finish = log


def test_a_failure_of_wandb_within_a_search_is_noted_and_does_not_end_it(
    tmp_path: Path, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    from rayvldd.tracking.wandb_tracker import WandbTracker

    def init(*, name: str, **_: object) -> RunOfWandb:
        if name.endswith("000"):
            raise TimeoutError("no answer")
        return RunOfWandb()

    monkeypatch.setattr("wandb.init", init)
    tracker = WandbTracker(tmp_path / "tracking")
    tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
    for trial_id in ("trial_000", "trial_001"):
        tracker.start_trial(trial_id, {})
        tracker.log_metrics(trial_id, {METRIC: 2.5}, 2)
        tracker.end_trial(trial_id, "finished", None, {})
    tracker.log_scores(Scores("evaluation", "my_set", tiny_study, "c", "val", ({"mean_recall": 1.0},)))
    tracker.end_study("finished", {}, None)
    reasons = dict(one.split(": ") for one in tracker.missing)
    assert reasons.pop("evaluation my_set c") == "the service ended"
    assert reasons == {"trial_000": "no answer", "trial_001": "the service ended", "the study": "the service ended"}
    for file in (tmp_path / "tracking" / "trials").glob("*.jsonl"):
        assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["start", "metrics", "end"]

    def refuse(**_: object) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(RayvlddError, match="cannot be used: no answer"):  # before any work
        WandbTracker(tmp_path / "other").start_study(tiny_study, "rayvldd sweep tiny.yaml")


@pytest.mark.parametrize(("name", "kind"), [("none", "FolderTracker"), ("tensorboard", "TensorboardTracker")])
def test_a_tracker_is_opened_by_name(tmp_path: Path, name: str, kind: str) -> None:
    tracker: Tracker = open_tracker(name, "tiny", Workspace(tmp_path))
    assert type(tracker).__name__ == kind and tracker.uri.startswith((tmp_path / "studies" / "tiny").as_uri())


def test_the_option_excludes_an_address_of_mlflow() -> None:
    wrong = ["--tracker", "tensorboard", "--tracking-uri", "http://127.0.0.1:5000"]
    result = run("sweep", "search_spaces/quickstart.yaml", *wrong)
    assert result.exit_code == EXIT_USER_ERROR and "--tracking-uri is for MLflow" in result.output
    assert "MLFLOW_TRACKING_URI" in os.environ, "the variable is no fault: the option takes precedence"
    result = run("sweep", "search_spaces/quickstart.yaml", "--tracker", "mlflow", "--tracking-uri", "none")
    assert result.exit_code == EXIT_USER_ERROR and "--tracking-uri none is no MLflow" in result.output
    result = run("sweep", "search_spaces/quickstart.yaml", "--tracker", "tensorboard", "--warm-start", "other")
    assert result.exit_code == EXIT_USER_ERROR and "the tracker is tensorboard" in result.output


@pytest.mark.parametrize(
    ("variable", "uri"), [("none", None), ("wandb", None), ("http://127.0.0.1:5000", "http://127.0.0.1:5000")]
)
def test_mlflow_by_name_takes_precedence_over_another_tracker_of_the_environment(
    variable: str, uri: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    found = sweep_command.make_context("sweep", ["quickstart", "--tracker", "mlflow"]).params["tracking_uri"]
    assert found == uri
