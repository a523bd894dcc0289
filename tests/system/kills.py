"""Kill processes of a tiny sweep with signal 9 at random moments, and compare the outcome with an undisturbed sweep.

    python tests/system/kills.py --count 40
    python tests/system/kills.py --seed 17 --count 1 --victim raylet

Each run starts a sweep with its own Ray, waits for a random time, and kills the driver, a trial, the raylet or the
global control service. The sweep is then repeated until it ends. A run fails if a finished trial is lost or made again,
an evaluation or the result differs, or a process or temporary file is left.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.studies import TINY_STUDY

FORK = multiprocessing.get_context("fork")
VICTIMS = ("driver", "trial", "raylet", "gcs")
MARK = "RAYVLDD_KILLS_MARK"
"""Environment variable by which the processes of a run are found."""
_LEFT = re.compile(r".*\.(part|partial|tmp)|decoded-.*|\.seen-.*|state-.*")
"""Names of temporary files, and of states of trials that have not ended."""
_TRIALS = ("ray::ImplicitFunc", "ray::_Worker")
"""Titles of Ray's processes that run trials, experts and scores; Ray's own agents have titles, too."""
_SESSIONS = 5
"""Sessions after which a sweep must have ended: one is cut off by the kill, and one may be by what it leaves."""
_SESSION_S = 240.0
_END_S = 180.0
"""Seconds for the processes of a killed driver to end. Ray's agents end once they have missed their raylet five times,
which took over a minute on a busy machine."""

STUDY = {
    **TINY_STUDY,
    "name": "killed",
    "experts": {**TINY_STUDY["experts"], "num_experts": 1},
    "distillation": {**TINY_STUDY["distillation"], "outer_steps": 12, "evaluate_every": 3},
    "search": {
        "space": {"distillation.lr_image": {"type": "choice", "values": [5.0, 20.0]}},
        "initial_points": [{"distillation.lr_image": rate} for rate in (5.0, 20.0)],
        "num_trials": 2,
        "max_concurrent": 1,
        "scheduler": "none",
        "num_finalists": 0,
    },
}
"""Every point of the space is a trial, so that the order of proposals does not matter."""


def sweep_in(root: Path) -> None:
    """Run or resume the sweep; called in a process of its own."""
    from rich.console import Console

    from rayvldd.config.study import Study
    from rayvldd.console import ProgressDisplay
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.hyperparameter_search.sweep import sweep
    from rayvldd.storage.folder import FolderStorage
    from rayvldd.tracking.folder_tracker import FolderTracker
    from rayvldd.workspace import Workspace

    workspace = Workspace(root)
    tracker = FolderTracker(workspace.study("killed") / "tracking")
    display = ProgressDisplay(Console(quiet=True))
    sweep(
        Study.model_validate(STUDY), workspace, ExpertStore(FolderStorage(workspace.experts)), tracker, display=display
    )


def _in_own_session(root: Path, mark: str) -> None:
    """Run the sweep with its output in a file; the environment marks all processes that Ray starts for it."""
    os.setsid()
    os.environ.update({MARK: mark, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"})
    log = os.open(root / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sweep_in(root)


def start(root: Path, mark: str) -> ForkProcess:
    """Start the sweep in a fork of this process, with all imports done."""
    process = FORK.Process(target=_in_own_session, args=(root, mark))
    process.start()
    return process


def processes_of(mark: str) -> dict[str, list[psutil.Process]]:
    """The processes that Ray started for a run, by kind."""
    found: dict[str, list[psutil.Process]] = {"trial": [], "raylet": [], "gcs": [], "other": []}
    for process in psutil.process_iter():
        try:
            if f"{MARK}={mark}".encode() not in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                continue
            words = process.cmdline()
        except (OSError, psutil.Error):
            continue
        name = Path(words[0]).name if words else ""
        kind = "trial" if name.startswith(_TRIALS) else "other"
        found[{"raylet": "raylet", "gcs_server": "gcs"}.get(name, kind)].append(process)
    return found


def kill_one(victim: str, driver: ForkProcess, mark: str, wait_s: float) -> str:
    """Wait, then kill the victim as soon as there is one; return what was killed, empty if the sweep ended before."""
    driver.join(wait_s)
    while driver.is_alive():
        if victim == "driver":
            driver.kill()
            return "driver"
        for process in processes_of(mark)[victim]:
            try:
                words = " ".join(process.cmdline())
                process.kill()
            except psutil.Error:  # it has just ended
                continue
            return f"{victim} ({words[:40]})"
        driver.join(0.05)
    return ""


# --- what a study has made ----------------------------------------------------------------------------------------


def finished_trials(root: Path) -> dict[str, str]:
    """The records of the trials that have ended, as text."""
    texts = {}
    for file in (root / "studies" / "killed" / "trials").glob("*/trial.json"):
        text = file.read_text(encoding="utf-8")
        if json.loads(text)["state"] != "running":
            texts[file.parent.name] = text + file.with_name("evaluations.jsonl").read_text(encoding="utf-8")
    return texts


def numbers(root: Path) -> dict[str, Any]:
    """Evaluations of every point, and the numbers of the result; without times and memory."""
    from rayvldd.records.trial import Trial

    folder = root / "studies" / "killed"
    trials = [Trial.read(file.parent) for file in sorted((folder / "trials").glob("*/trial.json"))]
    changing = ("seconds_", "peak_memory")
    evaluations = {
        json.dumps(trial.point): [
            (one.outer_step, {name: value for name, value in one.metrics.items() if not name.startswith(changing)})
            for one in trial.evaluations
        ]
        for trial in trials
    }
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    kept = {name: result[name] for name in ("trials", "test", "test_evaluations", "num_pairs")}
    return {"evaluations": evaluations, "number": len(trials), "best": result["best"]["config"], **kept}


def left_over(root: Path) -> list[str]:
    """Temporary files."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    return sorted(name for name in names if _LEFT.fullmatch(name.rpartition("/")[2]))


# --- runs ---------------------------------------------------------------------------------------------------------


def faults_of_run(root: Path, undisturbed: dict[str, Any], victim: str, wait_s: float) -> tuple[str, list[str]]:
    """Kill one process of a sweep, and run the sweep to its end; return what was killed, and what went wrong."""
    faults, before, killed = [], {}, ""
    root.mkdir(parents=True)
    for session in range(_SESSIONS):
        mark = f"{root.name}-{session}-{os.getpid()}"
        driver = start(root, mark)
        if not session:
            killed = kill_one(victim, driver, mark, wait_s)
            before = finished_trials(root)
        driver.join(_SESSION_S)
        if driver.is_alive():
            faults.append(f"session {session} did not end in {_SESSION_S:.0f} s")
            driver.kill()
        if left := processes_left(mark):
            faults.append(f"processes left: {left}")
        if (root / "studies" / "killed" / "result.json").is_file():
            break
    else:
        return killed, [*faults, "no result", (root / "log.txt").read_text(encoding="utf-8")[-3000:]]
    after = finished_trials(root)
    faults += [f"{name} was finished and is another now" for name in before if before[name] != after.get(name)]
    found = numbers(root)
    faults += [
        f"{name}: {found[name]} instead of {undisturbed[name]}" for name in found if found[name] != undisturbed[name]
    ]
    faults += [f"temporary file left: {name}" for name in left_over(root)]
    return killed, faults


def processes_left(mark: str) -> list[str]:
    """Command lines of a run's processes that do not end."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        left = [process for of_kind in processes_of(mark).values() for process in of_kind]
        if not left:
            return []
        time.sleep(0.2)
    return [" ".join(psutil.Process(process.pid).cmdline())[:80] for process in left if psutil.pid_exists(process.pid)]


def main() -> int:
    """Run all kills, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="number of runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--victim", choices=VICTIMS, help="always kill this process; default: in turn")
    given = parser.parse_args()

    import ray  # noqa: F401  # for the forks
    import torch  # noqa: F401

    import rayvldd.hyperparameter_search.sweep  # noqa: F401

    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "reference")
        reference.mkdir()
        started = time.monotonic()
        start(reference, f"reference-{os.getpid()}").join()
        seconds, undisturbed = time.monotonic() - started, numbers(reference)
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        for seed in range(given.seed, given.seed + given.count):
            draw = random.Random(seed)
            victim, wait_s = given.victim or VICTIMS[seed % len(VICTIMS)], draw.uniform(0.1, 0.95) * seconds
            root = Path(folder, f"run-{seed}")
            killed, faults = faults_of_run(root, undisturbed, victim, wait_s)
            failed += bool(faults)
            shown = "; ".join(faults) or "as undisturbed"
            print(f"seed {seed}: {killed or 'nothing'} killed after {wait_s:.1f} s: {shown}", flush=True)
            shutil.rmtree(root)
    print(f"{given.count - failed} of {given.count} runs ended as the undisturbed one")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
