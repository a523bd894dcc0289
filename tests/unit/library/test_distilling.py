"""A single distillation runs on the resources that its study states."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from helpers.cli import last_object, run
from helpers.sets import card_with, write_card
from helpers.studies import TINY_STUDY
from rich.console import Console

from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.errors import RayvlddError, StoreError
from rayvldd.experts.store.expert_store import open_store
from rayvldd.library.distilling import _held_folder, _prepare, _record_in, _words_of_scaled_rates, distill_point
from rayvldd.models.device_options import DeviceOptions
from rayvldd.records.set_card import CARD
from rayvldd.records.trial import EVALUATIONS, Evaluation
from rayvldd.workspace import Workspace

MODEL = {**TINY_STUDY["model"], "protocol": "full_image_encoder"}
"""Of this protocol alone a trial can have several GPUs."""


class _StopError(Exception):
    """Ends a test where the task would be loaded."""


@pytest.mark.parametrize(
    ("resources", "device", "further"),
    [
        ({"gpus_per_trial": 0}, "cpu", ()),
        ({"gpus_per_trial": 0.25}, "cuda", ()),
        ({"gpus_per_trial": 2, "device_cache_gb": 1.5, "cuda_graphs": True}, "cuda", ("cuda:1",)),
    ],
)
def test_the_task_is_loaded_as_that_of_a_trial(
    resources: dict[str, float], device: str, further: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: dict[str, Any] = {}
    limits: list[float] = []

    def load(*_: Any, **options: Any) -> None:
        loaded.update(options)
        raise _StopError

    monkeypatch.setattr("rayvldd.runtime.trial_task.load_task", load)
    monkeypatch.setattr("rayvldd.runtime.trial_task.limit_gpu_memory", limits.append)
    monkeypatch.setattr("rayvldd.hyperparameter_search.preparation.make_missing_experts", lambda *_: 0)
    study, workspace = Study.model_validate({**TINY_STUDY, "model": MODEL, "resources": resources}), Workspace(tmp_path)
    with pytest.raises(_StopError):
        _prepare(study, workspace, open_store(None, workspace), ProgressDisplay(Console(quiet=True)), lambda: None)
    assert (loaded["device"], loaded["further_devices"]) == (device, further)
    assert limits == [resources["gpus_per_trial"]], "memory follows the share"
    assert loaded["device_cache_gb"] == resources.get("device_cache_gb")
    assert loaded["options"] == DeviceOptions(cuda_graphs="cuda_graphs" in resources)


def test_a_second_distillation_into_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path / "w")
    with (
        _held_folder(workspace, Path("best")),
        _held_folder(workspace, Path("other")),
        pytest.raises(RayvlddError, match="another process is distilling into this folder"),
        _held_folder(workspace, tmp_path / "x" / ".." / "best"),
    ):
        pytest.fail("both have the folder")
    assert not (tmp_path / "best").exists(), "nothing was written into it"
    with _held_folder(workspace, tmp_path / "best"):
        (tmp_path / "best" / "card.json").touch()
    assert (tmp_path / "best" / "card.json").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            StoreError, match=r"--out .*file/set: cannot be written: .*; allowed: a folder that you may write"
        ),
        _held_folder(Workspace(tmp_path / "w"), tmp_path / "file" / "set"),
    ):
        pytest.fail("the work starts")


def test_more_than_this_machine_has_is_refused_before_work(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY_STUDY), encoding="utf-8")
    words: list[str | Path] = [
        "distill",
        file,
        "--workspace",
        tmp_path / "w",
        "--set",
        "resources.cpus_per_trial=4096",
        "--json",
    ]
    result = run(*words)
    assert result.exit_code == EXIT_USER_ERROR
    (fault,) = last_object(result)["faults"]
    assert "resources.cpus_per_trial" in fault["where"] and fault["problem"] == "requests 4096 CPUs"


def test_an_unreadable_record_of_recalls_is_set_aside(tmp_path: Path) -> None:
    shown = StringIO()
    display = ProgressDisplay(Console(file=shown, width=300))
    record = _record_in(tmp_path, 3, display)
    assert not record.evaluations and not shown.getvalue()
    record.add(Evaluation(0, {VAL_MEAN_RECALL: 9.5}))
    assert [one.recall for one in _record_in(tmp_path, 3, display).evaluations] == [9.5]

    (tmp_path / EVALUATIONS).write_text("no json\n", encoding="utf-8")
    again = _record_in(tmp_path, 3, display)
    assert not again.evaluations and "evaluations.unreadable now, and the curve lacks" in shown.getvalue()
    assert (tmp_path / "evaluations.unreadable").read_text(encoding="utf-8") == "no json\n"
    assert again.add(Evaluation(4, {VAL_MEAN_RECALL: 10.0}))
    assert [one.outer_step for one in _record_in(tmp_path, 3, display).evaluations] == [4]


def test_the_evaluation_of_a_set_that_was_saved_and_not_recorded_is_made_up_for(tmp_path: Path) -> None:
    display = ProgressDisplay(Console(quiet=True))
    _record_in(tmp_path, 3, display).add(Evaluation(0, {VAL_MEAN_RECALL: 9.5}))
    write_card(tmp_path / "checkpoint" / "best" / CARD, outer_step=2, metrics={VAL_MEAN_RECALL: 12.5})
    for _ in range(2):
        record = _record_in(tmp_path, 3, display)
        assert [(one.outer_step, one.recall) for one in record.evaluations] == [(0, 9.5), (2, 12.5)]
    assert record.best is not None and record.best.outer_step == 2, "it has gained: no rates are to be tried"


def test_evaluations_that_a_killed_session_recorded_and_did_not_send_are_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, workspace, display = Study.model_validate(TINY_STUDY), Workspace(tmp_path), ProgressDisplay()
    runs = workspace.study(study.name) / "distill"
    (runs / "key").mkdir(parents=True)
    _record_in(runs / "key", study.seed, display).add(Evaluation(0, {VAL_MEAN_RECALL: 9.5}))

    def continued(*_: Any) -> Iterator[SimpleNamespace]:
        metrics = {VAL_MEAN_RECALL: 12.5, "seconds_evaluating": 1.0}
        yield SimpleNamespace(outer_step=2, metrics=metrics, is_best=True)

    monkeypatch.setattr("rayvldd.library.distilling._prepare", lambda *_: (None, [], "key"))
    monkeypatch.setattr("rayvldd.distillation.loop.distill", continued)
    monkeypatch.setattr(
        "rayvldd.distillation.distilled_set.DistilledSet.load", lambda *_: SimpleNamespace(origin=card_with())
    )
    monkeypatch.setattr("rayvldd.library.distilling._copy_best", lambda *_: tmp_path / "set")
    (tmp_path / "set").mkdir()
    for _ in range(2):
        distill_point(study, workspace, open_store(None, workspace), display, "distill tiny.yaml", "none")
    (events,) = workspace.study(study.name).glob("tracking/*/study.jsonl")
    metrics = [event for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "metrics"]
    assert [(event["step"], event["metrics"][VAL_MEAN_RECALL]) for event in metrics] == [(0, 9.5), (2, 12.5)]


def test_scaled_rates_are_told_as_rates_of_sgd() -> None:
    metrics = {"sgd_lr_image": 640.12, "sgd_lr_text": 1168.3, "sgd_lr_lr": 9.807e-5, "drift": 1.0}
    told = "rates of sgd that equal the scaled ones: lr_image 640, lr_text 1.17e+03, lr_lr 9.81e-05"
    assert _words_of_scaled_rates(metrics) == told
    assert not _words_of_scaled_rates({"drift": 1.0})
