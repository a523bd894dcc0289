"""`ray up` onto three hosts for real, and a sweep that outlives a host, the network and its terminal.

The hosts are namespaces of this machine with sshd, made by tests/hosts.py. The cluster file is the one that ships, with
its three values filled in.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from helpers.hosts import Hosts, fetch_wheels, running_hosts, why_not
from helpers.paths import ROOT
from helpers.studies import TINY_STUDY

from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.storage.lease import LeaseState

CLUSTER_FILE = ROOT / "clusters" / "on_prem.yaml"
HEAD, CUT, KILLED = range(3)
SHORT, LONG = 200, 1400

STUDY = {
    **TINY_STUDY,
    "name": "three_hosts",
    "experts": {"num_experts": 3, "epochs": 60, "batch_size": 32},
    "distillation": {**TINY_STUDY["distillation"], "outer_steps": LONG, "evaluate_every": 20},
    # Each host has the two CPUs of this machine: one expert or one trial at a time.
    "resources": {"cpus_per_expert": 2, "cpus_per_trial": 2},
    "search": {
        "space": {"distillation.outer_steps": {"type": "int", "low": SHORT, "high": LONG}},
        # The first on each host is long: Tune hands the process of a trial that ends to one whose own still starts, on
        # a busy machine for half a minute, and the third host would stay idle until all is done.
        "initial_points": [{"distillation.outer_steps": steps} for steps in (LONG, LONG, LONG, SHORT, SHORT, SHORT)],
        "num_trials": 6,
        "max_concurrent": 3,
        "scheduler": "none",
        "num_finalists": 0,
    },
}
"""Trials of a minute, none of which is stopped: long enough to lose a host in the middle of one."""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    reason = why_not() or fetch_wheels(tmp_path / "wheels")
    if reason:
        pytest.skip(reason)
    with running_hosts(3, tmp_path) as made:
        yield made


class Laptop:
    """Who sits before the cluster: a home, a cluster file, and terminals that can be closed."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        (folder / "laptop").mkdir()
        programs = str(Path(sys.executable).parent)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "RAYVLDD_"))
        }
        self.environment = {
            **kept,
            "HOME": str(folder / "laptop"),
            "RAY_TMPDIR": str(folder / "laptop" / "ray"),
            "PATH": os.pathsep.join([programs, os.environ["PATH"], "/usr/sbin"]),
            "PYTHONPATH": str(ROOT),
        }
        self.cluster_file = folder / "cluster.yaml"
        self.cluster_file.write_text(self._filled_in(CLUSTER_FILE.read_text(encoding="utf-8")))
        self.dashboard, self.mlflow = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"

    def run(self, *words: str, timeout: float = 600) -> str:
        """A command that is waited for; both its outputs."""
        output = self.folder / f"command_{time.time_ns()}"  # no pipe: connections that ssh keeps would hold it open
        with output.open("wb") as file:
            done = subprocess.run(
                words,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=timeout,
            )
        assert done.returncode == 0, f"{words}\n{output.read_text()}"
        return output.read_text()

    def up(self) -> None:
        """`ray up`, again where Ray's processes did not come up in the 30 seconds that a busy machine may not have."""
        for tries_left in (4, 3, 2, 1, 0):
            try:
                self.run("ray", "up", "-y", str(self.cluster_file))
                return
            except AssertionError as error:
                if not tries_left or "timed out during startup" not in str(error):
                    raise

    @contextmanager
    def terminal(self) -> Iterator["Terminal"]:
        """A terminal in which the ports of the head are forwarded; it is closed with all that runs in it."""
        ports = [f"-L{here}:127.0.0.1:{there}" for here, there in ((self.dashboard, 8265), (self.mlflow, 5000))]
        tunnel = " ".join(self.hosts.ssh(HEAD, "-N", *ports))
        output = self.folder / f"terminal_{time.time_ns()}"
        with output.open("wb") as file:
            shell = subprocess.Popen(
                # Under nohup, where a hang-up would be ignored, this terminal closes all the same.
                ["env", "--default-signal=HUP", "bash", "-c", f"{tunnel} & while read -r line; do $line; done; wait"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            yield Terminal(shell, output, self.folder / "shared")
        finally:
            os.killpg(shell.pid, signal.SIGHUP)
            shell.communicate(timeout=30)

    def log_of_the_autoscaler(self) -> str:
        """The end of its log on the head, without waiting for hosts that do not answer and the commands for it."""
        of_waiting = "grep -hvE 'SSH still not|Running .*uptime|Full command'"
        command = [*self.hosts.ssh(HEAD), f"{of_waiting} /tmp/ray/session_latest/logs/monitor.* | tail -n 400"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout

    def job(self) -> dict[str, Any]:
        """The latest sweep, with its output."""
        words = ("rayvldd", "logs", "--json", "--address", self.address)
        done = subprocess.run(words, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300)
        job: dict[str, Any] = json.loads(done.stdout)
        return job if "state" in job else {"state": job["message"], "log": ""}

    def has_succeeded(self) -> bool:
        """Whether the latest sweep has; one that has failed will not."""
        job = self.job()
        assert job["state"] not in ("FAILED", "STOPPED"), job["log"]
        return bool(job["state"] == "SUCCEEDED")

    def alive(self) -> set[str]:
        """The names of the hosts that the cluster counts as alive."""
        token = (self.folder / "laptop" / ".ray" / "auth_token").read_text()
        request = Request(f"{self.address}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"})
        with urlopen(request, timeout=10) as answer:
            nodes = json.load(answer)["data"]["summary"]
        return {node["hostname"] for node in nodes if node["raylet"]["state"] == "ALIVE"}

    def _filled_in(self, text: str) -> str:
        """The cluster file as a user would edit it, and with the tests' key."""
        head, *others = (host.address for host in self.hosts.hosts)
        edits = {
            "head_ip: 192.0.2.10 ": f"head_ip: {head} ",
            "worker_ips: [192.0.2.11, 192.0.2.12] ": f"worker_ips: [{', '.join(others)}] ",
            "ssh_user: ubuntu ": "ssh_user: root ",
            "~/.ssh/id_ed25519": str(self.hosts.key),
        }
        for before, after in edits.items():
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        return text


@dataclass
class Terminal:
    """An interactive shell."""

    shell: "subprocess.Popen[bytes]"
    output: Path
    workspace: Path

    def type(self, line: str) -> None:
        assert self.shell.stdin
        self.shell.stdin.write(f"{line}\n".encode())
        self.shell.stdin.flush()

    def text(self) -> str:
        return self.output.read_text()

    def signs_of_life(self) -> tuple[str, float]:
        """What the terminal has said, and when a file in the workspace was last written."""
        written = [0.0]
        for file in self.workspace.rglob("*"):
            with suppress(FileNotFoundError):  # renamed meanwhile
                written.append(file.stat().st_mtime)
        return self.text(), max(written)

    def wait_until(self, found: Callable[[], Any], what: str, seconds: float = 800) -> None:
        """Wait until something is so; to look may fail meanwhile, where a connection is not there yet.

        On a busy machine all steps are slow, so it goes on while the terminal or the workspace has something new.
        """
        deadline, last, signs = time.monotonic() + seconds, None, self.signs_of_life()
        while time.monotonic() < deadline or signs != self.signs_of_life():
            if time.monotonic() >= deadline:
                deadline, signs = time.monotonic() + seconds, self.signs_of_life()
            try:
                if found():
                    return
            except OSError as error:
                last = error
            time.sleep(0.2)
        raise AssertionError(f"{what}: nothing new within {seconds:.0f} s; {last or ''}\n{self.text()}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return int(closed.getsockname()[1])


def makers(workspace: Path) -> set[str]:
    """The names of the hosts that train an expert at the moment."""
    leases = [LeaseState.read(file.read_bytes()) for file in (workspace / "experts").glob("*/leases/expert_*")]
    return {lease.machine.split()[0] for lease in leases if lease}


def trials_under_way(study: Path) -> int:
    """How many trials run and have come somewhere."""
    return sum(bool(trial.evaluations) for trial in Ledger(study / "trials").running)


def submission(laptop: Laptop, workspace: Path, file: Path) -> str:
    """The command that sends the sweep, as a user types it."""
    return f"rayvldd sweep {file} --submit --workspace {workspace} --address {laptop.address}"


@pytest.mark.timeout(2400)  # some minutes of work for two quiet CPUs, which are all that the three hosts have
def test_a_sweep_outlives_a_host_the_network_and_its_terminal(hosts: Hosts, tmp_path: Path) -> None:
    """Up, six trials, one host killed and one cut off, the terminal closed; down, up again, and the result is there."""
    laptop = Laptop(hosts, tmp_path)
    workspace, file = tmp_path / "shared", tmp_path / "three_hosts.yaml"
    file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    study = workspace / "studies" / "three_hosts"
    laptop.run("ray", "get-auth-token", "--generate")
    laptop.up()
    with laptop.terminal() as terminal:
        terminal.wait_until(lambda: len(laptop.alive()) == 3, "three nodes")
        terminal.type(submission(laptop, workspace, file))
        seen: set[str] = set()

        def all_have_trained() -> bool:
            seen.update(makers(workspace))
            return len(seen) == 3

        terminal.wait_until(all_have_trained, "experts on all hosts")
        terminal.wait_until(lambda: trials_under_way(study) == 3, "a trial on every host")
        hosts[KILLED].kill()
        hosts[CUT].cut()
        cut_at = time.monotonic()
        assert "continues when this terminal closes" in terminal.text()
    with laptop.terminal() as terminal:
        terminal.wait_until(lambda: laptop.alive() == {"host0"}, "the loss of both is noticed")
        time.sleep(max(0.0, 60 - (time.monotonic() - cut_at)))
        hosts[CUT].reconnect()
        terminal.wait_until(lambda: (study / "result.json").is_file(), "the result")
        try:
            terminal.wait_until(lambda: "host1" in laptop.alive(), "the host that was cut off works again")
        except AssertionError as error:  # Ray starts it once, and never again where that start has failed
            raise AssertionError(f"{error}\n{laptop.log_of_the_autoscaler()}") from None
        terminal.wait_until(laptop.has_succeeded, "the end of the job")
        log = laptop.job()["log"]
        (tmp_path / "job.log").write_text(log)  # for the analysis of a failure
        assert_all_accounted_for(study, log)
        assert_mlflow_is_complete(study, laptop)
    laptop.run("ray", "down", "-y", str(laptop.cluster_file))
    left = wait_for_the_end_of(hosts, (HEAD, CUT))
    assert not any(left), left

    laptop.up()
    with laptop.terminal() as terminal:
        terminal.wait_until(lambda: "host0" in laptop.alive(), "the head")
        terminal.type(submission(laptop, workspace, file))
        terminal.wait_until(laptop.has_succeeded, "the end of the second job")
        assert "study three_hosts is finished; this is its result" in laptop.job()["log"]


def assert_all_accounted_for(study: Path, log: str) -> None:
    """Six trials ended and none was lost; interrupted trials were resumed, and no expert was made twice."""
    result = json.loads((study / "result.json").read_text())
    ended = [trial.state for trial in Ledger(study / "trials").trials.values()]
    assert len(ended) == 6 and set(ended) <= {"finished", "stopped"}, ended
    assert sum(result["trials"].values()) == 6
    assert "experts 1/1: 3 made, 0 reused" in log
    assert len(list((study.parents[1] / "experts").glob("*/expert_*.json"))) == 3
    assert log.count("its process died; another continues from its last evaluation") >= 1, log


def assert_mlflow_is_complete(study: Path, laptop: Laptop) -> None:
    """The server on the head has the study, each trial as a run that ended, and every evaluation of each."""
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{laptop.mlflow}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    trials = {run.data.tags["rayvldd.trial_id"]: run for run in runs if "rayvldd.trial_id" in run.data.tags}
    ledger = Ledger(study / "trials").trials
    assert trials.keys() == ledger.keys()
    assert {run.data.tags["rayvldd.state"] for run in runs} <= {"finished", "stopped"}
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    for name, trial in ledger.items():
        logged = client.get_metric_history(trials[name].info.run_id, "val_mean_recall")
        assert [point.step for point in sorted(logged, key=lambda point: point.step)] == [
            each.outer_step for each in trial.evaluations
        ]


def wait_for_the_end_of(hosts: Hosts, numbers: tuple[int, ...]) -> list[list[str]]:
    """What still runs on some hosts after the minute and a half that `ray down` may take to be done everywhere.

    Ray's log monitor does not count: the head may start Ray again on a host that `ray down` stopped before the head,
    and of that Ray the log monitor alone may be left, which looks for no head. The next `ray up` stops it.
    """
    deadline = time.monotonic() + 90
    while True:
        commands = [hosts[number].commands() for number in numbers]
        left = [[command for command in of_host if "log_monitor" not in command] for of_host in commands]
        if not any(left) or time.monotonic() > deadline:
            return left
        time.sleep(1)
