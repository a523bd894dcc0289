"""Sweeps as jobs of a cluster: sent there, found again, ended. A thin layer over Ray's job API.

A job runs on the head and outlives the terminal that sent it. What it makes lies in its workspace, a folder that all
machines see, so that the same command on a new cluster goes on where the old one ended; the list of jobs is the
cluster's own and goes with it.
"""

import asyncio
import logging
import os
import secrets
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from rayvldd.clusters.versions import Versions
from rayvldd.config.loading import dump_study
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError, did_you_mean, message_of
from rayvldd.runtime.versions import EXIT_MISMATCH, mismatch

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where Ray's dashboard is on the head, and here while ssh forwards its port."""

ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
"""States that a job does not leave."""

_ANSWER_S = 10.0
_START_S = 180.0
"""Seconds that a job has to tell what runs on the cluster; a head that is busy takes its time to start a process."""
_STOP_S = 60
"""Seconds that a sweep has to end its trials and tell the tracker, before it is killed."""
_POLL_S = 0.5
_LOUD = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Modules of Ray that print a line for every upload."""


@dataclass(frozen=True)
class Job:
    """One job, as the cluster tells of it."""

    job_id: str
    state: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    study: str
    """Name of the study; empty where the job is something else."""
    workspace: str
    entrypoint: str
    """The command that it runs."""
    started: float
    """Seconds since 1970."""
    ended: float | None
    message: str
    """One line on how it is or ended."""
    exit_code: int | None

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return (self.ended or time.time()) - self.started


class ClusterJobs:
    """The jobs of one cluster.

    Args:
        address: ``http://HOST:PORT`` of the cluster's dashboard, or ``auto`` on one of its nodes.

    Raises:
        RayvlddError: when no cluster answers there, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        with self.translating_errors():
            _refuse_silence(address)
            with _no_other_address():
                self._client = JobSubmissionClient(address, headers=_token_header())
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.WARNING)

    def submit(self, study: Study, workspace: Path, options: Mapping[str, str]) -> Job:
        """Send a sweep, and return once the cluster has taken it: it runs there what is installed here.

        Args:
            study: With its settings resolved; paths in it are paths on the cluster's machines.
            workspace: A folder that all machines see.
            options: Further options of ``rayvldd sweep`` by name.

        Raises:
            RayvlddError: when the study runs there already, the releases differ, or the job ended at once.
        """
        running = [job for job in self.jobs() if job.state not in ENDED]
        for job in running:
            if (job.study, job.workspace) == (study.name, str(workspace)):
                raise RayvlddError(
                    f"study {study.name} in {workspace}: job {job.job_id} is running it",
                    next_command=f"rayvldd logs {job.job_id} --follow",
                )
        here = Versions.here()
        with tempfile.TemporaryDirectory() as folder, self.translating_errors():
            file = Path(folder, f"{study.name}.yaml")
            file.write_text(dump_study(study), encoding="utf-8")
            job_id = self._client.submit_job(
                entrypoint=_entrypoint(here, file.name, workspace, options),
                submission_id=f"{study.name}-{secrets.token_hex(3)}",
                runtime_env={
                    "working_dir": folder,
                    # Ctrl-C, on which a sweep keeps what is finished; Ray's own choice would be SIGTERM and 3 seconds.
                    "env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S)},
                },
                metadata={"study": study.name, "workspace": str(workspace), "rayvldd": here.rayvldd},
            )
        return self._taken(job_id, here)

    def jobs(self) -> list[Job]:
        """All jobs that were submitted to the cluster, the latest first."""
        with self.translating_errors():
            found = [_as_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started, reverse=True)

    def find(self, job_id: str | None) -> Job:
        """The job of this id, or the latest sweep.

        Raises:
            RayvlddError: when there is none.
        """
        jobs = self.jobs()
        for job in jobs:
            if job.job_id == job_id or (job_id is None and job.study):
                return job
        if job_id is None:
            raise RayvlddError(
                f"cluster at {self.address}: no sweep was submitted since it is up",
                next_command="rayvldd sweep STUDY --submit --workspace FOLDER",
            )
        known = [job.job_id for job in jobs]
        raise RayvlddError(
            f"no job {job_id!r} on the cluster at {self.address}{did_you_mean(job_id, known)}; "
            f"allowed: {', '.join(known) or 'there is none'}",
            next_command="rayvldd status",
        )

    def log(self, job: Job) -> str:
        """All that a job has printed."""
        with self.translating_errors():
            return str(self._client.get_job_logs(job.job_id))

    def follow(self, job: Job, write: Callable[[str], None]) -> Job:
        """Pass on what a job has printed and prints, until it ends; return how it ended.

        Raises:
            RayvlddError: when the connection is lost; the job goes on.
        """

        async def pass_on() -> None:
            async for text in self._client.tail_job_logs(job.job_id):
                write(text)

        with self.translating_errors():
            asyncio.run(pass_on())
        return self._awaited(job.job_id, _ANSWER_S)

    def stop(self, job: Job) -> Job:
        """End a job as Ctrl-C would, and return what became of it."""
        with self.translating_errors():
            self._client.stop_job(job.job_id)
        return self._awaited(job.job_id, _STOP_S + _ANSWER_S)

    def _awaited(self, job_id: str, seconds: float) -> Job:
        """The job once it has ended, or as it is when the time is up."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.find(job_id)
            if job.state in ENDED or time.monotonic() > deadline:
                return job
            time.sleep(_POLL_S)

    def _taken(self, job_id: str, here: Versions) -> Job:
        """Wait until a job has told what runs on the cluster, and refuse what is not the same here."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            job = self.find(job_id)
            there = Versions.in_log(self.log(job)) if job.state != "PENDING" else None
            if job.state == "FAILED" and (there is None or job.exit_code == EXIT_MISMATCH):
                said = self.log(job).strip().splitlines()
                with self.translating_errors():
                    self._client.delete_job(job_id)
                faults = here.faults_against(there) if there else [said[-1] if said else job.message]
                raise mismatch(f"cluster at {self.address}", faults)
            if there:
                return job
            time.sleep(_POLL_S)
        return self.find(job_id)

    @contextmanager
    def translating_errors(self) -> Iterator[None]:
        """Tell what the connection does in our words."""
        try:
            yield
        except AuthenticationError as error:
            raise RayvlddError(
                f"cluster at {self.address}: refuses the token: {message_of(error)}; allowed: the one that "
                f"was in ~/.ray/auth_token, or RAY_AUTH_TOKEN, of who ran ray up",
                next_command="ray get-auth-token, there, and the same command with RAY_AUTH_TOKEN set to it",
            ) from error
        except (OSError, RuntimeError, ValueError, requests.RequestException, aiohttp.ClientError) as error:
            raise RayvlddError(
                f"cluster at {self.address}: cannot be reached: {message_of(error)}; allowed: http://HOST:PORT of its "
                f"dashboard, or auto on one of its nodes; jobs that run there go on",
                next_command="ray attach clusters/on_prem.yaml -p 8265 -p 5000, in another terminal",
            ) from error


def _entrypoint(here: Versions, file: str, workspace: Path, options: Mapping[str, str]) -> str:
    sweep = ["rayvldd", "sweep", file, "--address", "auto", "--workspace", str(workspace)]
    sweep += [word for name, value in options.items() for word in (name, value)]
    # exec: the signal of a stop reaches the sweep itself, and its exit code is the job's.
    return f"python -m rayvldd.runtime.versions {shlex.quote(here.as_argument())} && exec {shlex.join(sweep)}"


def _as_job(details: Any) -> Job:
    metadata = details.metadata or {}
    message: Sequence[str] = (details.message or "").strip().splitlines()
    return Job(
        job_id=details.submission_id,
        state=str(details.status.value),
        study=metadata.get("study", ""),
        workspace=metadata.get("workspace", ""),
        entrypoint=details.entrypoint,
        started=(details.start_time or 0) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        message=message[0] if message else "",
        exit_code=details.driver_exit_code,
    )


def _token_header() -> dict[str, str] | None:
    """The token that Ray itself would send, had RAY_AUTH_MODE been set: who has one means it."""
    if os.environ.get("RAY_AUTH_MODE"):
        return None
    token = os.environ.get("RAY_AUTH_TOKEN")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token and file.is_file():
        token = file.read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {token}"} if token else None


@contextmanager
def _no_other_address() -> Iterator[None]:
    """Hide the variables that Ray would follow rather than the address it is given."""
    hidden = {name: os.environ.pop(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _refuse_silence(address: str) -> None:
    """Raise where nothing listens, before Ray waits for an answer without end.

    Raises:
        ValueError: when it is no address of a dashboard.
        OSError: when nothing answers.
    """
    if address == "auto":
        return
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{address!r} is no address of a dashboard")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=_ANSWER_S).close()
