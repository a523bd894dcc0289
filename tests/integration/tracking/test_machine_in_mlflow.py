"""The use of the machine in MLflow: on the study's run, through the outbox, over sessions and failed readings."""

from collections.abc import Mapping
from pathlib import Path
from threading import Event

import pytest
from mlflow import MlflowClient

from rayvldd.background import RepeatedCall
from rayvldd.config.study import Study
from rayvldd.tracking import mlflow_tracker
from rayvldd.tracking.mlflow_tracker import MlflowTracker
from rayvldd.tracking.verdicts import PermanentError

CPU = "system/cpu_utilization_percentage"


class Sampler:
    """Fails at the second reading; the fifth tells the test that the thread has gone on."""

    def __init__(self) -> None:
        self.readings, self.fifth = 0, Event()

    def sample(self) -> Mapping[str, float]:
        self.readings += 1
        if self.readings == 2:
            raise OSError("no counters now")
        if self.readings == 5:
            self.fifth.set()
        return {CPU: float(self.readings)}


def test_samples_are_metrics_of_the_study_that_a_later_session_continues(
    tmp_path: Path, tiny_study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_tracker, "EVERY_S", 0.01)
    for session in (1, 2):
        sampler = Sampler()
        monkeypatch.setattr(mlflow_tracker, "MachineSampler", lambda sampler=sampler: sampler)
        tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")
        tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
        with tracker.sampling_machine():
            assert sampler.fifth.wait(60)
        tracker.end_study("interrupted" if session == 1 else "finished", {}, None)
        readings = sampler.readings
        assert not tracker.missing
    messages = [record.getMessage() for record in caplog.records if "system metrics" in record.getMessage()]
    assert messages == ["system metrics: the use of the machine was not read: no counters now"] * 2
    client = MlflowClient(tracking_uri=tracker.uri)
    (run,) = client.search_runs([tracker._experiment])
    history = client.get_metric_history(run.info.run_id, CPU)
    steps = [entry.step for entry in history]
    assert steps == sorted(set(steps)) and len(steps) >= 6
    assert [entry.value for entry in history].count(1.0) == 2, "of both sessions"
    assert history[-1].value <= readings


def test_after_a_sample_that_is_refused_no_further_ones_are_sent(
    tmp_path: Path, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses one refuses all, and they would fill the list of what is missing."""
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlartifacts")
    tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")

    def refuse(*arguments: object, **named: object) -> None:
        raise PermanentError("no such metrics")

    monkeypatch.setattr(tracker._client, "log_batch", refuse)
    sampler = Sampler()
    monkeypatch.setattr(mlflow_tracker, "MachineSampler", lambda: sampler)
    repeated = tracker.sampling_machine()
    assert isinstance(repeated, RepeatedCall)
    repeated._call()
    assert tracker._outbox.wait(60)
    assert tracker.missing == ("the use of the machine: no such metrics",)
    repeated._call()
    assert sampler.readings == 1
