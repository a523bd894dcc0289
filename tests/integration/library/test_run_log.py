"""``rayvldd experts`` and ``rayvldd distill`` are logged: metrics by epoch and by outer step, and how they ended."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cli import run
from helpers.studies import ONE_AT_A_TIME, TINY_STUDY

import rayvldd as rv
from rayvldd.cli.interrupts import exit_code_of
from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.library.run_log import run_log
from rayvldd.workspace import Workspace


def events_of(workspace: Path, kind: str) -> list[dict[str, Any]]:
    """The events of the one record of a kind, in plain files."""
    (file,) = (workspace / "studies" / "tiny" / "tracking").glob(f"{kind}_*/study.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_experts_and_a_distillation_are_logged(local_ray: None, tmp_path: Path) -> None:
    file, workspace = tmp_path / "tiny.yaml", tmp_path / "workspace"
    file.write_text(yaml.safe_dump({**TINY_STUDY, "resources": ONE_AT_A_TIME}), encoding="utf-8")
    for command in ("experts", "distill", "distill"):
        result = run(command, file, "--workspace", workspace)
        assert result.exit_code == 0, result.output
    *metrics, end = events_of(workspace, "experts")
    assert (end["event"], end["state"], end["metrics"]) == ("end", "finished", {"experts_made": 2})
    names = {(event["step"], name) for event in metrics for name in event["metrics"]}
    assert names >= {(epoch, f"expert_{n:03d}/val_mean_recall") for epoch in (1, 2) for n in (0, 1)}
    events = events_of(workspace, "distill")
    steps = [event["step"] for event in events if event["event"] == "metrics"]
    assert steps == [0, 2, 4], "the second run continues a finished one, and writes no step again"
    assert events[-1]["state"] == "finished" and events[-1]["metrics"]["best_val_mean_recall"] >= 0
    kept = [path.name for path in (workspace / "studies" / "tiny" / "tracking").rglob("card.json")]
    assert kept == ["card.json"], "the set is among the artifacts"


def test_a_second_distillation_is_refused_and_leaves_the_record_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, workspace = tmp_path / "tiny.yaml", tmp_path / "workspace"
    file.write_text(yaml.safe_dump(TINY_STUDY), encoding="utf-8")
    arguments = ("distill", file, "--workspace", workspace)
    seen: dict[str, Any] = {}

    def prepare(*_: object) -> None:
        """Run the command again while the first one is at work."""
        seen["second"] = run(*arguments)
        seen["events"] = events_of(workspace, "distill")
        raise KeyboardInterrupt

    monkeypatch.setattr("rayvldd.library.distilling._prepare", prepare)
    assert run(*arguments).exit_code == exit_code_of(KeyboardInterrupt())
    assert seen["second"].exit_code == EXIT_USER_ERROR
    assert "another process is distilling with these settings" in seen["second"].output
    assert seen["events"] == [], "the record of the first one is open"
    assert [event["state"] for event in events_of(workspace, "distill")] == ["interrupted"]


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("wrong"), "failed"), (KeyboardInterrupt(), "interrupted"), (rv.RayvlddError("diverged"), "failed")],
)
def test_the_end_of_a_command_that_fails_is_logged(
    tiny_study: Study, tmp_path: Path, error: BaseException, state: str
) -> None:
    with (
        pytest.raises(type(error)),
        run_log(tiny_study, Workspace(tmp_path), "rayvldd distill tiny.yaml", "none", ProgressDisplay(quiet=True)),
    ):
        raise error
    assert [(event["event"], event["state"]) for event in events_of(tmp_path, "distill")] == [("end", state)]
