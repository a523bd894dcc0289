"""Submit, list, follow and stop sweeps as jobs of a cluster, over Ray's job API.

A job runs on the head node and continues after the submitting terminal is closed. Its results are in its workspace, a
folder shared by all machines, so the same command on a new cluster continues the work. The list of jobs belongs to the
cluster and ends with it.
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
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.dashboard.modules.job import sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from rayvldd.clusters.versions import Versions
from rayvldd.config.loading import dump_study
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError, did_you_mean, message_of
from rayvldd.runtime.versions import EXIT_MISMATCH, mismatch

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Address of Ray's dashboard on the head node, and locally while ssh forwards its port."""

ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
"""Final job states."""

_ANSWER_S = 10.0
_START_S = 180.0
"""Time limit in seconds for a job to report the cluster's versions; a busy head node starts processes slowly."""
_STOP_S = 60
"""Time limit in seconds for a stopped sweep to end its trials and update the tracker before it is killed."""
_POLL_S = 0.5
_LOUD = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Modules of Ray that log a line for every upload."""


@dataclass(frozen=True)
class Job:
    """State of a job as reported by the cluster."""

    job_id: str
    state: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    study: str
    """Name of the study; empty if the job is not a sweep."""
    workspace: str
    entrypoint: str
    """Command of the job."""
    started: float
    """Seconds since 1970."""
    ended: float | None
    message: str
    """One line about its state or end."""
    exit_code: int | None

    @property
    def seconds(self) -> float:
        """Run time so far."""
        return (self.ended or time.time()) - self.started


class ClusterJobs:
    """The jobs of one cluster.

    Args:
        address: ``http://HOST:PORT`` of the cluster's dashboard, or ``auto`` on one of its nodes.

    Raises:
        RayvlddError: when no cluster answers at the address, or it requires another token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        with self.translating_errors():
            _refuse_silence(address)
            with _exact_address():
                self._client = JobSubmissionClient(address, headers=_token_header())
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.WARNING)

    def submit(self, study: Study, workspace: Path, options: Mapping[str, str]) -> Job:
        """Submit a sweep, and return when the cluster has started it with the same versions as installed here.

        Args:
            study: The study with resolved settings; its paths are paths on the cluster's machines.
            workspace: Folder shared by all machines.
            options: Further options of ``rayvldd sweep`` by name.

        Raises:
            RayvlddError: when the study is already running there, the releases differ, or the job ended immediately.
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
                    # SIGINT, as Ctrl-C, so that a sweep keeps finished work; Ray's default is SIGTERM and 3 seconds.
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
        """Return the job with this id, or the latest sweep.

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
        ids = [job.job_id for job in jobs]
        raise RayvlddError(
            f"no job {job_id!r} on the cluster at {self.address}{did_you_mean(job_id, ids)}; "
            f"allowed: {', '.join(ids) or 'there is none'}",
            next_command="rayvldd status",
        )

    def log(self, job: Job) -> str:
        """Return the complete log of a job."""
        with self.translating_errors():
            return str(self._client.get_job_logs(job.job_id))

    def follow(self, job: Job, write: Callable[[str], None]) -> Job:
        """Write the log of a job, past and new lines, until it ends; return its final state.

        Raises:
            RayvlddError: when the connection is lost; the job continues.
        """

        async def pass_on() -> None:
            async for text in self._client.tail_job_logs(job.job_id):
                write(text)

        with self.translating_errors():
            asyncio.run(pass_on())
        return self._awaited(job.job_id, _ANSWER_S)

    def stop(self, job: Job) -> Job:
        """Stop a job as Ctrl-C would, and return its state."""
        with self.translating_errors():
            self._client.stop_job(job.job_id)
        return self._awaited(job.job_id, _STOP_S + _ANSWER_S)

    def _awaited(self, job_id: str, seconds: float) -> Job:
        """Wait for a job to end; return its state then, or when the time limit is reached."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.find(job_id)
            if job.state in ENDED or time.monotonic() > deadline:
                return job
            time.sleep(_POLL_S)

    def _taken(self, job_id: str, here: Versions) -> Job:
        """Wait until a job has reported the cluster's versions; raise if they differ from the local ones."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            job = self.find(job_id)
            there = Versions.in_log(self.log(job)) if job.state != "PENDING" else None
            if job.state == "FAILED" and (there is None or job.exit_code == EXIT_MISMATCH):
                lines = self.log(job).strip().splitlines()
                with self.translating_errors():
                    self._client.delete_job(job_id)
                faults = here.faults_against(there) if there else [lines[-1] if lines else job.message]
                raise mismatch(f"cluster at {self.address}", faults)
            if there:
                return job
            time.sleep(_POLL_S)
        return self.find(job_id)

    @contextmanager
    def translating_errors(self) -> Iterator[None]:
        """Translate errors of the connection into a ``RayvlddError``."""
        try:
            yield
        except AuthenticationError as error:
            raise RayvlddError(
                f"cluster at {self.address}: refuses the token: {message_of(error)}; allowed: the one that "
                f"was in ~/.ray/auth_token, or RAY_AUTH_TOKEN, of the user who ran ray up",
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
    # exec, so that a stop signal reaches the sweep itself and its exit code becomes the exit code of the job.
    return f"python -m rayvldd.runtime.versions {shlex.quote(here.as_argument())} && exec {shlex.join(sweep)}"


def _as_job(details: JobDetails) -> Job:
    metadata = details.metadata or {}
    message: Sequence[str] = (details.message or "").strip().splitlines()
    return Job(
        job_id=details.submission_id or "",
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
    """Return the header with the user's token, which Ray itself sends only if RAY_AUTH_MODE is set."""
    if os.environ.get("RAY_AUTH_MODE"):
        return None
    token = os.environ.get("RAY_AUTH_TOKEN")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token and file.is_file():
        token = file.read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {token}"} if token else None


@contextmanager
def _exact_address() -> Iterator[None]:
    """Keep Ray from replacing the given address by one of RAY_API_SERVER_ADDRESS or RAY_ADDRESS in the block.

    ``auto`` is not an address, and Ray resolves it as everywhere.
    """
    resolve = sdk.get_address_for_submission_client
    sdk.get_address_for_submission_client = lambda address: (
        address if address and address != "auto" else resolve(address)
    )
    try:
        yield
    finally:
        sdk.get_address_for_submission_client = resolve


def _refuse_silence(address: str) -> None:
    """Raise if nothing listens at the address; Ray itself would wait without a time limit.

    Raises:
        ValueError: when it is not the address of a dashboard.
        OSError: when nothing answers.
    """
    if address == "auto":
        return
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{address!r} is no address of a dashboard")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), timeout=_ANSWER_S).close()
