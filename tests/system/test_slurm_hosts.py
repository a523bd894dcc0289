"""The batch script of Slurm on two hosts: a sweep over both is ended by SIGTERM, and the next start of the job goes on.

Slurm's commands are stand-ins, or, where Slurm is installed, its own (marked `long`). The script is the one that ships,
with its values filled in.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from helpers.cluster_files import CLUSTERS
from helpers.hosts import Hosts, running_hosts, why_not
from helpers.paths import ROOT
from helpers.slurm import Slurm, SlurmItself, StandIns, name_hosts, slurm_is_missing
from helpers.studies import TINY_STUDY

from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.records.trial import Trial

SHORT, LONG = 20, 300
BEGUN, TOO_SLOW = "Running command on head node", "timed out during startup"
"""What Ray says when all hosts are there, and where one did not come up in time."""

STUDY = {
    **TINY_STUDY,
    "name": "slurm",
    "distillation": {**TINY_STUDY["distillation"], "outer_steps": LONG, "evaluate_every": 20},
    "resources": {"cpus_per_expert": 2, "cpus_per_trial": 2},  # one on each host
    "search": {
        "space": {"distillation.outer_steps": {"type": "int", "low": SHORT, "high": LONG}},
        "initial_points": [{"distillation.outer_steps": steps} for steps in (SHORT, LONG, LONG - 20)],
        "num_trials": 3,
        "max_concurrent": 2,
        "scheduler": "none",
        "num_finalists": 0,
    },
}
"""One trial that ends at once, and two of some seconds, one of them in the middle when the first has ended."""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    with running_hosts(2, tmp_path) as made:
        name_hosts(made, tmp_path)
        yield made


@pytest.fixture(params=["stand_ins", pytest.param("slurm", marks=pytest.mark.long)])
def slurm(hosts: Hosts, tmp_path: Path, request: pytest.FixtureRequest) -> Slurm:
    (tmp_path / "home").mkdir()
    environment = {
        "HOME": str(tmp_path / "home"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]),
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": "none",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
        # After the end of Ray on the first host, the other one waits so long for it: by default a minute.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    }
    if request.param == "stand_ins":
        return StandIns(hosts, tmp_path, environment)
    if reason := slurm_is_missing():
        pytest.skip(reason)
    return SlurmItself(hosts, tmp_path, environment)


def filled_in(workspace: Path, file: Path) -> Path:
    """The script as a user would edit it for nodes of two CPUs without GPU."""
    text = (CLUSTERS / "slurm.sbatch").read_text(encoding="utf-8")
    edits = {
        "/shared/YOUR-FOLDER/rayvldd": str(workspace),
        "$HOME/YOUR-CLONE/.venv/bin/activate": str(Path(sys.executable).with_name("activate")),
        "--cpus-per-task=16": "--cpus-per-task=2",
        "#SBATCH --gpus-per-node=1\n": "",
    }
    for before, after in edits.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    file.write_text(text, encoding="utf-8")
    return file


def wait_until(found: Callable[[], object], what: str, slurm: Slurm) -> None:
    """Wait until something is so, as long as the job's output goes on: on a busy machine all steps are slow."""
    deadline, said = time.monotonic() + 400, slurm.output()
    while not found():
        if time.monotonic() >= deadline:
            assert said != (said := slurm.output()), f"{what}: nothing new within 400 s\n{said[-8000:]}"
            deadline = time.monotonic() + 400
        time.sleep(0.1)


def wait_for_sweep(slurm: Slurm, number: int) -> None:
    """Wait until the job begins its sweep for the nth time, and start the job anew where Ray was too slow."""
    for _ in range(4):
        if begins_sweep(slurm, number):
            return
        slurm.terminate()
        wait_until(slurm.is_queued_again, "queued again", slurm)
        slurm.start_again()
    raise AssertionError(slurm.output()[-8000:])


def begins_sweep(slurm: Slurm, number: int) -> bool:
    """Whether Ray comes up, for which it gives a node 30 seconds: a busy machine may take longer."""

    def times(words: str) -> int:
        return slurm.output().count(words)

    too_slow = times(TOO_SLOW)
    wait_until(lambda: times(BEGUN) == number or times(TOO_SLOW) > too_slow, "Ray on both hosts", slurm)
    return times(BEGUN) == number


def trials_of(study: Path) -> list[Trial]:
    return list(Ledger(study / "trials").trials.values())


def files_of_ended(study: Path) -> dict[Path, str]:
    """The files of the trials that have ended, and their texts."""
    ended = [trial.folder for trial in trials_of(study) if trial.state != "running"]
    return {
        file: file.read_text() for folder in ended for file in (folder / "trial.json", folder / "evaluations.jsonl")
    }


@pytest.mark.timeout(1200)  # a minute on two quiet CPUs, which are all that the hosts have
def test_a_job_that_slurm_ends_continues_when_it_starts_again(hosts: Hosts, slurm: Slurm, tmp_path: Path) -> None:
    workspace, file = tmp_path / "shared", tmp_path / "slurm.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    study = workspace / "studies" / "slurm"
    slurm.submit(filled_in(workspace, tmp_path / "slurm.sbatch"), str(file))

    wait_for_sweep(slurm, 1)

    def is_in_the_middle() -> bool:
        assert not slurm.has_ended(), slurm.output()[-8000:]
        trials = trials_of(study) if study.is_dir() else []
        under_way = [trial for trial in trials if trial.state == "running" and trial.evaluations]
        return bool(under_way) and len(trials) > len(under_way) and bool(files_of_ended(study))

    wait_until(is_in_the_middle, "a trial ended and another under way", slurm)
    assert all(any("raylet" in command for command in host.commands()) for host in hosts.hosts)
    kept = files_of_ended(study)
    experts = sorted((workspace / "experts").rglob("expert_*.json"))
    slurm.terminate()
    wait_until(slurm.is_queued_again, "queued again", slurm)
    assert not (study / "result.json").exists(), "the sweep ended before its time"
    interrupted = [trial for trial in trials_of(study) if trial.state == "running"]
    assert interrupted

    slurm.start_again()
    wait_for_sweep(slurm, 2)
    wait_until(slurm.has_ended, "the end of the job", slurm)
    result = json.loads((study / "result.json").read_text())
    assert result["trials"]["finished"] == 3, result["trials"]
    assert {file: file.read_text() for file in kept} == kept
    assert sorted((workspace / "experts").rglob("expert_*.json")) == experts, "no expert was trained again"
    by_name = {trial.trial_id: trial for trial in trials_of(study)}
    for trial in interrupted:
        assert by_name[trial.trial_id].evaluations[: len(trial.evaluations)] == trial.evaluations
    assert not any("raylet" in command for host in hosts.hosts for command in host.commands()), "Ray ends with the job"
