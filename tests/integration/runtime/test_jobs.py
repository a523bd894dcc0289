"""Sweeps as jobs: submission, rejections, and finding and stopping a job.

The cluster is a server here that answers as Ray's job API does, to Ray's own client. The API itself, a cluster
and its jobs are tried in tests/test_three_hosts.py.
"""

import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from helpers.studies import ONE_RATE_OF_TWO, TINY_STUDY

from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.cli.main import main
from rayvldd.clusters.versions import Versions
from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.runtime import jobs as jobs_module
from rayvldd.runtime import nodes, versions
from rayvldd.runtime.jobs import ClusterJobs

TOKEN = "0123456789abcdef" * 4


class FakeCluster(BaseHTTPRequestHandler):
    """The job API of a cluster, as far as rayvldd uses it."""

    jobs: dict[str, dict[str, Any]]
    logs: dict[str, str]
    packages: dict[str, bytes]
    runs: Versions
    """What its nodes run."""
    token: str

    def do_GET(self) -> None:
        *_, last = self.path.rstrip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            return self._answer(401 if "Authorization" not in self.headers else 403, b"Unauthorized")
        if self.path == "/api/version":
            return self._answer(
                200, {"version": "4", "ray_version": self.runs.ray, "ray_commit": "", "session_name": ""}
            )
        if last == "jobs":
            return self._answer(200, list(self.jobs.values()))
        if last == "logs":
            return self._answer(200, {"logs": self.logs[self.path.split("/")[3]]})
        return self._answer(404, b"no such package")

    def do_PUT(self) -> None:
        self.packages[self.path.split("/")[-1]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        *_, job_id, last = self.path.rstrip("/").split("/")
        if last == "stop":
            self.jobs[job_id].update(status="STOPPED", end_time=3000, message="Job was intentionally stopped.")
            return self._answer(200, {"stopped": True})
        request = json.loads(self._body())
        name, of_job = request["submission_id"], Versions(**json.loads(request["entrypoint"].split("'")[1]))
        same = of_job == self.runs
        self.jobs[name] = entry(name, **{key: request[key] for key in ("entrypoint", "metadata", "runtime_env")})
        self.jobs[name].update({} if same else {"status": "FAILED", "driver_exit_code": versions.EXIT_MISMATCH})
        self.logs[name] = f"Running entrypoint for job {name}\nrayvldd runs on {self.runs.as_argument()}\n"
        self._answer(200, {"job_id": name, "submission_id": name})

    def do_DELETE(self) -> None:
        del self.jobs[self.path.split("/")[-1]]
        self._answer(200, {"deleted": True})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def entry(name: str, start_time: int = 1000, **values: Any) -> dict[str, Any]:
    """A job as the API lists it; times are milliseconds."""
    common = {"type": "SUBMISSION", "submission_id": name, "status": "RUNNING", "entrypoint": "echo", "metadata": {}}
    return {**common, "message": "Job is currently running.", "start_time": start_time, **values}


@contextmanager
def serving(handler: type[FakeCluster]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[FakeCluster], str]]:
    """A cluster with the packages installed here, and its address."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    empty: dict[str, Any] = {"jobs": {}, "logs": {}, "packages": {}, "runs": Versions.here(), "token": TOKEN}
    handler = type("FakeClusterOfThisTest", (FakeCluster,), empty)
    with serving(handler) as address:
        yield handler, address


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY_STUDY, "search": ONE_RATE_OF_TWO}), encoding="utf-8")
    return file


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="rayvldd")


def submit(file: Path, address: str, *more: str) -> Result:
    return run("sweep", file, "--submit", "--workspace", "/shared/ws", "--address", address, *more)


# --- submitting ---------------------------------------------------------------------------------------------------


def test_a_sweep_is_sent_with_its_settings_resolved(
    cluster: tuple[type[FakeCluster], str], study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, address = cluster
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = submit(study_file, address, "--set", "search.num_trials=3", "--store", "s3://bucket/experts", "--json")
    assert result.exit_code == 0, result.output
    ((name, job),) = handler.jobs.items()
    assert json.loads(result.stdout)["id"] == name and name.startswith("tiny-")
    check, sweep = job["entrypoint"].split(" && exec ")
    assert check == f"python -m rayvldd.runtime.versions '{Versions.here().as_argument()}'"
    assert sweep == "rayvldd sweep tiny.yaml --address auto --workspace /shared/ws --store s3://bucket/experts"
    assert job["metadata"] | {"rayvldd": ""} == {"study": "tiny", "workspace": "/shared/ws", "rayvldd": ""}
    assert job["runtime_env"]["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    ((package, content),) = handler.packages.items()
    assert job["runtime_env"]["working_dir"] == f"gcs://{package}"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["tiny.yaml"]
        sent = Study.model_validate(yaml.safe_load(archive.read("tiny.yaml")))
    assert sent == Study.model_validate({**TINY_STUDY, "search": {**ONE_RATE_OF_TWO, "num_trials": 3}})
    for line in (f"rayvldd logs {name} --follow", "rayvldd status", f"rayvldd stop {name}"):
        assert f"{line} --address {address}" in result.stderr


@pytest.mark.parametrize("part", ["ray", "python", "rayvldd"])
def test_other_releases_are_refused_with_both_named(
    part: str, cluster: tuple[type[FakeCluster], str], study_file: Path
) -> None:
    handler, address = cluster
    here = Versions.here()
    handler.runs = Versions(**{**vars(here), part: "9.8.7"})
    result = submit(study_file, address)
    assert result.exit_code == EXIT_USER_ERROR
    assert f"is {vars(here)[part]} here, 9.8.7 there" in result.stderr
    assert "Next: ray up" in result.stderr
    assert handler.jobs == {}, "what cannot run is not left in the list"


def test_a_cluster_without_rayvldd(
    cluster: tuple[type[FakeCluster], str], study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, address = cluster

    def fail(self: FakeCluster) -> None:
        name = json.loads(self._body())["submission_id"]
        self.jobs[name] = entry(name, status="FAILED", driver_exit_code=1)
        self.logs[name] = "Running\n/bin/python: Error while finding module: No module named 'rayvldd'\n"
        self._answer(200, {"job_id": name, "submission_id": name})

    monkeypatch.setattr(handler, "do_POST", fail)
    result = submit(study_file, address)
    assert result.exit_code == EXIT_USER_ERROR
    assert "cannot be used: /bin/python: Error while finding module: No module named 'rayvldd'" in result.stderr


def test_a_study_that_runs_already_is_not_sent_again(cluster: tuple[type[FakeCluster], str], study_file: Path) -> None:
    handler, address = cluster
    metadata = {"study": "tiny", "workspace": "/shared/ws"}
    handler.jobs["tiny-1"] = entry("tiny-1", metadata=metadata, status="FAILED")
    handler.jobs["tiny-2"] = entry("tiny-2", metadata={**metadata, "workspace": "/shared/other"})
    assert submit(study_file, address).exit_code == 0
    result = submit(study_file, address)
    assert result.exit_code == EXIT_USER_ERROR
    assert "study tiny in /shared/ws: job tiny-" in result.stderr and "Next: rayvldd logs tiny-" in result.stderr


def test_paths_that_mean_something_else_on_the_cluster(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "ClusterJobs", lambda *_: pytest.fail("connected"))
    result = run("sweep", study_file, "--submit", "--workspace", "ws", "--store", "experts", "--address", "head:6379")
    assert result.exit_code == EXIT_USER_ERROR
    assert "3 faults found, nothing was started" in result.stderr
    assert "--workspace: got 'ws'" in result.stderr and "--store: got 'experts'" in result.stderr
    assert "--address: got 'head:6379'" in result.stderr
    assert not Path("ws").exists()


def test_a_dry_run_sends_nothing(cluster: tuple[type[FakeCluster], str], study_file: Path) -> None:
    handler, address = cluster
    result = submit(study_file, address, "--dry-run")
    assert result.exit_code == 0 and f"would be submitted to {address}, for /shared/ws" in result.output
    settings = json.loads(submit(study_file, address, "--dry-run", "--json").stdout)["settings"]
    assert Study.model_validate(settings) == load_study(study_file)
    assert handler.jobs == {} and handler.packages == {}


# --- the cluster --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["f" * 64, None])
def test_a_wrong_token_and_none(
    token: str | None, cluster: tuple[type[FakeCluster], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    if token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
    result = run("status", "--address", cluster[1])
    assert result.exit_code == EXIT_USER_ERROR
    # Ray reads a token once a process: without one it may still send that of another test.
    assert re.search("refuses the token: Authentication " + ("failed" if token else "(required|failed)"), result.stderr)
    assert "Next: ray get-auth-token" in result.stderr


def test_the_token_of_the_home_is_taken(
    cluster: tuple[type[FakeCluster], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN + "\n")
    assert ClusterJobs(cluster[1]).jobs() == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "head:8265", "http://"])
def test_no_cluster_at_an_address(address: str, cluster: tuple[type[FakeCluster], str]) -> None:
    result = run("status", "--address", address)
    assert result.exit_code == EXIT_USER_ERROR
    assert f"cluster at {address}: cannot be reached: " in result.stderr
    assert "allowed: http://HOST:PORT" in result.stderr and "Next: ray attach" in result.stderr


def test_an_address_wins_over_the_environment(
    cluster: tuple[type[FakeCluster], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert ClusterJobs(cluster[1]).jobs() == []


# --- finding and ending -------------------------------------------------------------------------------------------


@pytest.fixture
def three_jobs(cluster: tuple[type[FakeCluster], str]) -> tuple[type[FakeCluster], str]:
    handler, _ = cluster
    sweep = {"study": "tiny", "workspace": "/shared/ws"}
    handler.jobs["tiny-old"] = entry("tiny-old", 2000, metadata=sweep, status="SUCCEEDED", end_time=62000)
    handler.jobs["tiny-new"] = entry("tiny-new", 5000, metadata=sweep)
    handler.jobs["mlflow"] = entry("mlflow", 9000, entrypoint="mlflow server")
    handler.logs.update({name: f"log of {name}\n" for name in handler.jobs})
    return cluster


def test_status_lists_the_latest_first(three_jobs: tuple[type[FakeCluster], str]) -> None:
    result = run("status", "--address", three_jobs[1], "--json")
    assert result.exit_code == 0, result.output
    jobs = json.loads(result.stdout)["jobs"]
    assert [job["id"] for job in jobs] == ["mlflow", "tiny-new", "tiny-old"]
    assert (jobs[2]["state"], jobs[2]["study"], jobs[2]["ended"]) == ("SUCCEEDED", "tiny", 62.0)
    assert "mlflow server" in result.stderr and "60 s" in result.stderr
    assert f"Next: rayvldd logs tiny-new --follow --address {three_jobs[1]}" in result.stderr


def test_logs_are_those_of_the_latest_sweep_or_of_the_job_named(three_jobs: tuple[type[FakeCluster], str]) -> None:
    assert run("logs", "--address", three_jobs[1]).stdout == "log of tiny-new\n"
    result = run("logs", "mlflow", "--address", three_jobs[1], "--json")
    assert json.loads(result.stdout)["log"] == "log of mlflow\n"


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_a_job_that_is_not_there(command: str, three_jobs: tuple[type[FakeCluster], str]) -> None:
    result = run(command, "tiny-nev", "--address", three_jobs[1])
    assert result.exit_code == EXIT_USER_ERROR
    assert "no job 'tiny-nev'" in result.stderr and "(did you mean 'tiny-new'?)" in result.stderr
    assert "allowed: mlflow, tiny-new, tiny-old\nNext: rayvldd status" in result.stderr


def test_logs_without_a_sweep(cluster: tuple[type[FakeCluster], str]) -> None:
    result = run("logs", "--address", cluster[1])
    assert result.exit_code == EXIT_USER_ERROR
    assert "no sweep was submitted since it is up\nNext: rayvldd sweep STUDY --submit" in result.stderr


def test_stop_ends_a_job_once(three_jobs: tuple[type[FakeCluster], str]) -> None:
    handler, address = three_jobs
    assert "would be ended" in run("stop", "tiny-new", "--address", address, "--dry-run").output
    assert handler.jobs["tiny-new"]["status"] == "RUNNING"
    assert "job tiny-new: stopped" in run("stop", "tiny-new", "--address", address).output
    assert handler.jobs["tiny-new"]["status"] == "STOPPED"
    assert "has ended already: stopped" in run("stop", "tiny-new", "--address", address).output


# --- versions and nodes -------------------------------------------------------------------------------------------


def test_versions_say_on_the_cluster_whether_they_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    here = Versions.here()
    assert versions.main([here.as_argument()]) == 0
    other = Versions(here.ray, "3.10.1", "0.0.1 (code 00000000)")
    assert versions.main([other.as_argument()]) == versions.EXIT_MISMATCH
    assert Versions.in_log(f"first line\n{capsys.readouterr().out}") == here
    assert Versions.in_log("nothing of the kind") is None and Versions.in_log("rayvldd runs on {") is None
    assert other.faults_against(here) == [
        f"Python is 3.10.1 here, {here.python} there",
        f"rayvldd is 0.0.1 (code 00000000) here, {here.rayvldd} there",
    ]


def test_nodes_that_do_not_see_the_workspace_or_run_other_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Versions.here()
    seen: dict[str, Any] = {"10.0.0.1": (here, True), "10.0.0.2": (here, False), "10.0.0.3": (here, False)}
    monkeypatch.setattr(nodes, "_looked_from_every_node", lambda mark: seen)
    with pytest.raises(RayvlddError, match=r"--workspace .*: not seen from 10.0.0.2, 10.0.0.3; allowed: .*\nNext: "):
        nodes.refuse_unfit_nodes(tmp_path)
    seen["10.0.0.3"] = (Versions(here.ray, here.python, "0.0.1"), True)
    with pytest.raises(RayvlddError, match=r"10.0.0.3: rayvldd is .* here, 0.0.1 there"):
        nodes.refuse_unfit_nodes(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_node_of_a_fit_cluster_is_looked_from(local_ray: None, tmp_path: Path) -> None:
    nodes.refuse_unfit_nodes(tmp_path)
    seen = nodes._looked_from_every_node(tmp_path / "not_there")
    assert [(found, sees) for found, sees in seen.values()] == [(Versions.here(), False)]
