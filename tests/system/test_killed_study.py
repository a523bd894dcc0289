"""A whole study with ten kills at random moments: its results are kept, and no finished work is repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers.paths import ROOT
from helpers.studies import TINY_STUDY
from rich.console import Console

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search.objectives import ranked
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.study_store import StudyStore
from rayvldd.storage.folder import FolderStorage
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.workspace import Workspace

KILLS = 3
"""Kills of the driver; a session of the study follows each."""
WORKER_KILLS = (2, 2, 2, 1)
"""Kills of processes of trials, experts and scores, by session. Three deaths in one session would fail a trial."""
SEARCH = {
    # Epochs make two sets of experts, which trials make when they need them: a kill may hit these too.
    "space": {
        "experts.epochs": {"type": "choice", "values": [1, 2]},
        "distillation.lr_image": {"type": "float", "low": 1.0, "high": 100.0, "log": True},
    },
    "num_trials": 5,
    "grace_evaluations": 1,
    "num_finalists": 1,
    "finalist_seeds": 2,
}


def study() -> Study:
    return Study.model_validate({**TINY_STUDY, "name": "killed", "search": SEARCH})


def sweep_on(machine: Path, kept: Path) -> Any:
    """What ``rayvldd sweep --study-store`` does on one machine; experts lie where both see them."""
    from rayvldd.hyperparameter_search.sweep import sweep

    workspace, display = Workspace(machine), ProgressDisplay(Console(quiet=True))
    folder = StudyFolder(workspace.study("killed"))
    return sweep(
        study(),
        workspace,
        ExpertStore(FolderStorage(kept / "experts")),
        FolderTracker(folder.root / "tracking"),
        display=display,
        study_store=StudyStore(FolderStorage(kept / "studies"), folder, every_s=0.2),
    )


def made_experts(kept: Path) -> dict[str, int]:
    files = (kept / "experts").rglob("*.safetensors")
    return {str(file): file.stat().st_mtime_ns for file in files if "/epochs/" not in str(file) and file.name[0] != "."}


def ended(folder: StudyFolder) -> dict[str, str]:
    """What is final by now, as text: trials that ended, and sets of the finalist."""
    texts = {}
    for file in folder.trials.glob("*/trial.json"):
        if json.loads(file.read_text(encoding="utf-8"))["state"] != "running":
            rows = file.with_name("evaluations.jsonl")
            texts[file.parent.name] = file.read_text(encoding="utf-8") + rows.read_text(encoding="utf-8")
    texts |= {file.parent.name: file.read_text(encoding="utf-8") for file in folder.finalists.glob("*/scores.json")}
    return texts


def how_far(folder: StudyFolder) -> int:
    """Evaluations and finished sets so far."""
    rows = [file.read_text(encoding="utf-8").count("\n") for file in folder.trials.glob("*/evaluations.jsonl")]
    return sum(rows) + len(list(folder.finalists.glob("*/scores.json")))


def kill_and_go_on(root: Path) -> None:
    """Run the study in sessions, each a fork of this process with all imports done, and print the observations."""
    import ray  # noqa: F401
    import torch  # noqa: F401

    import rayvldd.hyperparameter_search.sweep  # noqa: F401

    generator = np.random.default_rng(11)
    folder = StudyFolder(Workspace(root / "a").study("killed"))
    for session in range(KILLS + 1):
        process = os.fork()
        if not process:
            sweep_on(root / "a", root / "kept")
            os._exit(0)
        goal, delay = how_far(folder) + int(generator.integers(2, 5)), float(generator.uniform(0, 0.3))
        due, left = how_far(folder), WORKER_KILLS[session]
        while (left or (session < KILLS and how_far(folder) < goal)) and os.waitpid(process, os.WNOHANG) == (0, 0):
            if left and how_far(folder) >= due:
                time.sleep(float(generator.uniform(0, 0.3)))
                killed = kill_worker_of(process)
                left, due = left - killed, how_far(folder) + killed
            time.sleep(0.02)
        if session < KILLS:
            time.sleep(delay)
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        seen: dict[str, Any] = {"signal": os.WTERMSIG(status), "worker_kills": WORKER_KILLS[session] - left}
        seen |= {"ended": ended(folder), "experts": made_experts(root / "kept")}
        print(json.dumps(seen), flush=True)


def kill_worker_of(driver: int) -> bool:
    """Kill a process that runs, starts or ends a trial, an expert or a score, if there is one."""
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if process.cmdline() and process.cmdline()[0].startswith(("ray::ImplicitFunc", "ray::_Worker")):
                process.kill()
                return True
    return False


_DRIVER = """
import sys
sys.path[:0] = {tests!r}
from pathlib import Path
from test_killed_study import kill_and_go_on
if __name__ == "__main__":
    kill_and_go_on(Path({root!r}))
"""


@pytest.mark.timeout(900)  # four sessions with a Ray each, and seven processes that start again
def test_a_study_with_ten_kills_ends_as_one_without(tmp_path: Path) -> None:
    source = _DRIVER.format(tests=[str(Path(__file__).parent), str(ROOT / "tests")], root=str(tmp_path))
    driver = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    # Ray tells of processes that died there, too.
    *cuts, last = [json.loads(line) for line in driver.stdout.splitlines() if line.startswith("{")]
    assert [cut["signal"] for cut in cuts] == [signal.SIGKILL] * KILLS and last["signal"] == 0, driver.stderr
    assert tuple(session["worker_kills"] for session in (*cuts, last)) == WORKER_KILLS
    for cut in cuts:
        assert cut["ended"].items() <= last["ended"].items(), "what was final stayed as it was"
        assert cut["experts"].items() <= last["experts"].items(), "no expert was made again"
    assert cuts[-1]["ended"] and len(cuts[0]["ended"]) < len(last["ended"])

    folder = StudyFolder(Workspace(tmp_path / "a").study("killed"))
    ledger = folder.ledger()
    # A trial that was killed before its first line was written comes again under another number.
    assert len(ledger.trials) == len(ledger.ended) == 5
    assert ledger.states()["failed"] == 0 and set(last["ended"]) - set(ledger.trials) == {
        f"{ranked(ledger.ended, study())[0].trial_id}_again_{number}" for number in range(2)
    }
    sets = {trial.point["experts.epochs"] for trial in ledger.trials.values()}
    assert len(last["experts"]) == 2 * len(sets)
    result = folder.result()
    assert result is not None and result.test_evaluations == 1 and result.test.num_sets == 2
    for trial in ledger.trials.values():
        steps = [each.outer_step for each in trial.evaluations]
        assert steps == sorted(set(steps))
        lines = (
            (folder.root / "tracking" / "trials" / f"{trial.trial_id}.jsonl").read_text(encoding="utf-8").splitlines()
        )
        events = [json.loads(line) for line in lines]
        assert [event["step"] for event in events if event["event"] == "metrics"] == steps
        assert [event["event"] for event in events].count("end") == 1

    other = sweep_on(tmp_path / "b", tmp_path / "kept")
    assert not other.is_new and len(other.trials) == 5, "another machine has it from the store, and runs nothing"
    there = StudyFolder(Workspace(tmp_path / "b").study("killed"))
    places = {"distilled_set": str(there.best), "tracking_uri": (there.root / "tracking").as_uri()}
    assert other.outcome == result.model_copy(update=places)
