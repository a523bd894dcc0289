"""Slurm on simulated hosts: Slurm itself, or stand-ins of those of its commands that a batch script calls.

Both have the same methods, so that one test runs on either. Each host is a node of two CPUs; the first runs the batch
script. The home folder and the folder of the job are the same on all, as on clusters with a shared file system.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from helpers.hosts import Hosts

PROGRAMS = ("slurmctld", "slurmd", "slurmstepd")
"""Programs that Slurm itself needs here, of Debian's packages slurmctld and slurmd."""
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_UP_S = 60.0


class Slurm(Protocol):
    """A cluster with one job."""

    def submit(self, script: Path, *words: str) -> None:
        """Start a batch script on all hosts, with its words."""

    def terminate(self) -> None:
        """Send SIGTERM to the script alone, as ``#SBATCH --signal=B:TERM@300`` does before the time limit."""

    def is_queued_again(self) -> bool:
        """Whether the job was requeued since its last start, and that start has ended."""

    def start_again(self) -> None:
        """Start the requeued job, or wait for it."""

    def has_ended(self) -> bool:
        """Whether the job has ended and is not queued again."""

    def output(self) -> str:
        """What the job has printed, over all its starts."""


class StandIns:
    """``srun`` and ``scontrol`` as scripts on the first host; this class starts and ends the job."""

    _JOB = "77"

    def __init__(self, hosts: Hosts, folder: Path, environment: Mapping[str, str]) -> None:
        self._hosts, self._folder = hosts, folder
        self._commands: list[str] = []
        self._restarts = 0
        self._output = folder / f"slurm-{self._JOB}.out"
        self._requeued = folder / "requeued"
        self._environment = dict(environment) | {
            "PATH": f"{_programs(folder, hosts, self._requeued)}:{environment['PATH']}",
            "SLURM_JOB_ID": self._JOB,
            "SLURM_JOB_NODELIST": f"host[0-{len(hosts) - 1}]",
            "SLURM_JOB_NUM_NODES": str(len(hosts)),
            "SLURM_CPUS_PER_TASK": "2",
        }

    def submit(self, script: Path, *words: str) -> None:
        self._commands = ["bash", str(script), *words]
        self._start()

    def terminate(self) -> None:
        pid = (self._folder / "script.pid").read_text().strip()
        subprocess.run([*self._hosts.ssh(0), f"kill -TERM {pid}"], check=True, timeout=60)

    def is_queued_again(self) -> bool:
        queued = self._requeued.read_text().split() if self._requeued.is_file() else []
        return self.has_ended() and queued == [self._JOB] * (self._restarts + 1)

    def start_again(self) -> None:
        self._restarts += 1
        for host in self._hosts.hosts:  # as Slurm, end what is left of a job; this connection is no exception
            subprocess.run([*self._hosts.ssh(host.number), "kill -KILL -1"], capture_output=True, timeout=60)
        self._start()

    def has_ended(self) -> bool:
        return self._script.poll() is not None

    def output(self) -> str:
        return _lines_of(self._output)

    def _start(self) -> None:
        """Run the script on the first host; its process has the number in ``script.pid``."""
        environment = self._environment | {"SLURM_RESTART_COUNT": str(self._restarts)}
        line = f"{_session(self._folder, environment)}; echo $$ > script.pid; exec {shlex.join(self._commands)}"
        with self._output.open("ab") as file:
            self._script = subprocess.Popen(
                [*self._hosts.ssh(0), line], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )


_SRUN = r"""#!/usr/bin/env bash
# srun: one task on every node of the job, with the environment and the folder of the caller.
while [[ $1 == --* ]]; do shift; done
session="cd ${PWD@Q}; $(export -p)"
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
for node in $nodes; do
    ssh -F CONFIG "$node" "$session; exec ${*@Q}" </dev/null &
done
status=0
for node in $nodes; do wait -n || status=$?; done
exit "$status"
"""
_SCONTROL = r"""#!/usr/bin/env bash
# scontrol: the nodes of a list such as host[0-1], one a line; the state of the job; a record of what is queued again.
case "$1 $2" in
    "show hostnames")
        range=${3#*[} range=${range%]}
        for number in $(seq "${range%-*}" "${range#*-}"); do echo "${3%[*}$number"; done
        ;;
    "show job") echo "   JobState=RUNNING Reason=None" ;;
    requeue*) echo "$2" >>REQUEUED ;;
esac
"""


def _programs(folder: Path, hosts: Hosts, requeued: Path) -> Path:
    """A folder with the stand-ins."""
    programs, config = folder / "stand_ins", folder / "ssh_config"
    programs.mkdir()
    options = f"User root\nIdentityFile {hosts.key}\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
    config.write_text(f"{options}LogLevel ERROR\n")
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
        file = programs / name
        file.write_text(text.replace("CONFIG", str(config)).replace("REQUEUED", str(requeued)))
        file.chmod(0o755)
    return programs


class SlurmItself:
    """Slurm's daemons on the hosts, without authentication and without control groups."""

    _JOB = "1"

    def __init__(self, hosts: Hosts, folder: Path, environment: Mapping[str, str]) -> None:
        self._hosts, self._folder, self._restarts = hosts, folder, 0
        self._environment = dict(environment) | {"SLURM_CONF": str(folder / "slurm.conf")}
        (folder / "slurm.conf").write_text(_configuration(hosts, folder))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/tmp/ray/cgroup\n")
        self._on(0, "slurmctld")
        for host in hosts.hosts:
            self._on(host.number, f"slurmd -N host{host.number}")
        deadline = time.monotonic() + _UP_S
        while self._on(0, "sinfo --noheader --format=%D,%T").split() != [f"{len(hosts)},idle"]:
            assert time.monotonic() < deadline, self._on(0, "sinfo")
            time.sleep(0.2)

    def submit(self, script: Path, *words: str) -> None:
        self._on(0, shlex.join(["sbatch", f"--nodes={len(self._hosts)}", str(script), *words]))

    def terminate(self) -> None:
        self._on(0, f"scancel --signal=TERM --batch {self._JOB}")

    def is_queued_again(self) -> bool:
        return f"Restarts={self._restarts + 1} " in self._on(0, f"scontrol show job {self._JOB}")

    def start_again(self) -> None:
        self._restarts += 1  # Slurm starts it by itself

    def has_ended(self) -> bool:
        return not self._states()

    def output(self) -> str:
        return _lines_of(self._folder / f"slurm-{self._JOB}.out")

    def _states(self) -> str:
        return self._on(0, "squeue --noheader --format=%t")

    def _on(self, number: int, command: str) -> str:
        line = f"{_session(self._folder, self._environment)}; {command}"
        done = subprocess.run([*self._hosts.ssh(number), line], capture_output=True, text=True, timeout=60)
        assert not done.returncode, f"{command}: {done.stderr}"
        return done.stdout


def _configuration(hosts: Hosts, folder: Path) -> str:
    """slurm.conf. A requeued job starts again after ``cred_expire`` seconds."""
    (folder / "state").mkdir()
    values = {
        "ClusterName": "hosts",
        "SlurmctldHost": "host0",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/none",
        "CredType": "cred/none",
        "AuthInfo": "cred_expire=5",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/linear",
        "SlurmdParameters": "config_overrides",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "KillWait": "5",
        "StateSaveLocation": str(folder / "state"),
        "SlurmdSpoolDir": "/tmp/ray/slurmd",
        "SlurmctldPidFile": "/tmp/ray/slurmctld.pid",
        "SlurmdPidFile": "/tmp/ray/slurmd.pid",
        "SlurmctldLogFile": str(folder / "slurmctld.log"),
        "SlurmdLogFile": str(folder / "slurmd.%h.log"),
    }
    lines = [f"{name}={value}" for name, value in values.items()]
    lines += [f"NodeName=host{host.number} NodeAddr={host.address} CPUs=2 RealMemory=1000" for host in hosts.hosts]
    names = ",".join(f"host{host.number}" for host in hosts.hosts)
    return "\n".join([*lines, f"PartitionName=all Nodes={names} Default=YES State=UP", ""])


def name_hosts(hosts: Hosts, folder: Path) -> None:
    """Let all hosts find each other by name."""
    lines = ["127.0.0.1 localhost", *(f"{host.address} host{host.number}" for host in hosts.hosts)]
    (folder / "etc_hosts").write_text("\n".join([*lines, ""]))
    for host in hosts.hosts:
        mount = f"mount --bind {shlex.quote(str(folder / 'etc_hosts'))} /etc/hosts"
        subprocess.run([*hosts.ssh(host.number), mount], check=True, timeout=60)


def slurm_is_missing() -> str:
    """Why Slurm itself cannot run here; empty if it can."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_PATH)]
    return f"Slurm needs {', '.join(missing)}: Debian's slurmctld and slurmd" if missing else ""


def _lines_of(file: Path) -> str:
    """Its lines, shortened, as Ray prints the commands of its processes; without the state of a Ray that ends."""
    lines = file.read_text().splitlines() if file.is_file() else []  # there is none before the job starts
    return "\n".join(line[:160] for line in lines if not line.startswith("[state-dump]"))


def _session(folder: Path, environment: Mapping[str, str]) -> str:
    """Commands that make the folder and the environment those of a job."""
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    return f"cd {shlex.quote(str(folder))} && export {variables}"
