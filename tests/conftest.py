"""Fixtures of several test modules: a small study, and one local Ray for the whole session."""

import gc
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import psutil
import pytest
from helpers.studies import TINY_STUDY

from rayvldd.config.study import Study

# Set before torch is imported. pytest -n starts several processes, and each would otherwise use one thread per CPU;
# they would wait for each other in every small operation, and the unit tier would take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray starts its workers with niceness 15. On a machine that other work keeps busy they would get a thirtieth of a core.
os.environ.setdefault("RAY_worker_niceness", "0")
# What runs in the background of a shell without job control ignores Ctrl-C, and so do its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from helpers.s3_server import S3Server

    from rayvldd.storage.storage import Storage

LONGEST = (
    "test_three_hosts",
    "test_slurm_hosts",
    "test_actor_pool",
    "test_search",
    "test_killed_study",
    "test_evaluate_command",
    "test_searching_methods",
    "test_commands",
    "test_trajectories_benchmark",
)
"""Modules with tests that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the modules for ``-n 3 --dist loadfile``: first the longest ones, then the others with Ray.

    Each process starts its own Ray when it needs it. Both kinds of modules mostly wait, so that three processes can
    share two cores.
    """

    def on_ray(item: pytest.Item) -> bool:
        storage = item.callspec.params.get("storage") if hasattr(item, "callspec") else None
        return storage == "object_store" or "local_ray" in getattr(item, "fixturenames", ())

    with_ray = {item.path for item in items if on_ray(item)}
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (rank.get(item.path.stem, len(LONGEST)), item.path not in with_ray))


@pytest.fixture(autouse=True)
def no_tracking_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands log to plain files by default, because creating a database of MLflow takes seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")


@pytest.fixture
def tiny_study() -> Study:
    """A study of 40 generated images of 16 pixels, a ConvNet of 8 channels and projection heads; no search space."""
    return Study.model_validate(TINY_STUDY)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session; tests can share it, because names of arrays depend on their content."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray with two CPUs, started once; the tested code finds it running and does not stop it."""
    from rayvldd.runtime.cluster import start_ray

    with ExitStack() as stack:
        with warnings.catch_warnings():
            # If the first try took too long, its processes still end while their objects are collected.
            warnings.filterwarnings("ignore", r"subprocess \d+ is still running", ResourceWarning)
            stack.enter_context(start_ray(address=None, num_cpus=2))
            gc.collect()
        for process in psutil.Process().children():  # it reads all logs ten times a second, and sends them to nobody
            with suppress(psutil.NoSuchProcess):  # one that ended when Ray needed a second try to start
                if any("log_monitor.py" in word for word in process.cmdline()):
                    process.kill()
        yield


@pytest.fixture(scope="module")
def kept_actors(local_ray: None) -> Iterator[None]:
    """The local Ray, with actors that stay for the next test: each takes seconds to import torch."""
    from rayvldd.runtime.actor_pool import keeping_actors

    with keeping_actors():
        yield


@pytest.fixture(scope="session")
def s3_of_the_session() -> Iterator["S3Server"]:
    """A local S3 server, started once."""
    from helpers.s3_server import running_s3

    with running_s3() as server:
        yield server


@pytest.fixture
def s3(s3_of_the_session: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "S3Server":
    """The S3 server with a new bucket ``experts`` and without failures, isolated from the machine's AWS settings."""
    server = s3_of_the_session
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no_config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no_credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    server.faults.clear()
    urlopen(Request(f"http://{server.moto[0]}:{server.moto[1]}/moto-api/reset", method="POST")).close()
    server.client.create_bucket(Bucket="experts")
    server.requests.clear()
    return server


@pytest.fixture(params=["folder", "s3", "object_store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> "Storage":
    """Each kind of storage, empty."""
    if request.param == "folder":
        from rayvldd.storage.folder import FolderStorage

        return FolderStorage(tmp_path / "experts")
    if request.param == "s3":
        from rayvldd.storage.s3 import S3Storage

        server: S3Server = request.getfixturevalue("s3")
        return S3Storage("experts", "sets", tmp_path / "local", endpoint_url=server.url)
    request.getfixturevalue("local_ray")
    from helpers.storages import empty_object_store

    return empty_object_store()
