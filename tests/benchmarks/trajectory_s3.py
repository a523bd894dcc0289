"""An expert to an S3 on this machine and back, and a plain file of as many bytes beside it."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trajectory_cases import BYTES_OF_FLOAT32, Layouts, drawn_expert, drawn_recipe, files_below, save_expert

from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import ParameterLayout
from rayvldd.storage.folder import FolderStorage

_BUCKET = "benchmark"
_SNAPSHOTS = 8
_KEYS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Transfers:
    """The shortest seconds of each."""

    plain_write: float
    write: float
    plain_read: float
    read: float


def serve_s3() -> None:
    """Be an S3 until standard input ends; the address goes to standard output."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    server.stop()


@contextmanager
def _running_s3(script: Path) -> Iterator[str]:
    command = [sys.executable, str(script), "--serve-s3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()


def transfer_times(num_bytes: int, rounds: int, script: Path, folder: Path) -> Transfers:
    """Write and read in turns, with the transfer settings of the store on both sides."""
    os.environ.update(_KEYS)
    numbers = num_bytes // _SNAPSHOTS // BYTES_OF_FLOAT32
    layouts = Layouts(*(ParameterLayout(("weight",), ((size,),)) for size in (numbers - 1000, 1000)))
    expert = drawn_expert(layouts, 0, tuple(range(_SNAPSHOTS)))
    save_expert(ExpertStore(FolderStorage(folder / "plain")), drawn_recipe(), 0, expert, layouts)
    plain = max(files_below(folder / "plain"), key=lambda path: path.stat().st_size)
    with _running_s3(script) as url:
        both = _Both(url, folder, plain, expert, layouts)
        times = [both.transfer() for _ in range(rounds)]
    best = [min(taken) for taken in zip(*times, strict=True)]
    return Transfers(*best)


class _Both:
    """A client of boto3 alone, and the store."""

    def __init__(self, url: str, folder: Path, plain: Path, expert: Trajectory, layouts: Layouts) -> None:
        import boto3
        from botocore.config import Config

        self._url, self._folder, self._plain, self._expert, self._layouts = url, folder, plain, expert, layouts
        self._client: Any = boto3.client("s3", endpoint_url=url, config=Config(max_pool_connections=16))
        self._client.create_bucket(Bucket=_BUCKET)

    def transfer(self) -> tuple[float, float, float, float]:
        """Plain file and expert there, plain file and expert back; everything is removed afterwards."""
        from rayvldd.storage.s3 import S3Storage, _transfer_config

        config, name = _transfer_config(), str(self._plain)
        writer = ExpertStore(S3Storage(_BUCKET, "set", self._folder / "writer", endpoint_url=self._url))
        reader = ExpertStore(S3Storage(_BUCKET, "set", self._folder / "reader", endpoint_url=self._url))
        taken = (
            _seconds(lambda: self._client.upload_file(name, _BUCKET, "plain", Config=config)),
            _seconds(lambda: save_expert(writer, drawn_recipe(), 0, self._expert, self._layouts)),
            _seconds(lambda: self._client.download_file(_BUCKET, "plain", f"{name}.back", Config=config)),
            _seconds(lambda: _read_all(reader)),
        )
        for entry in self._client.list_objects_v2(Bucket=_BUCKET)["Contents"]:
            self._client.delete_object(Bucket=_BUCKET, Key=entry["Key"])
        for side in ("writer", "reader"):
            shutil.rmtree(self._folder / side)
        Path(f"{name}.back").unlink()
        return taken


def _read_all(store: ExpertStore) -> None:
    """Every number, compared with its checksum."""
    expert = store.load(drawn_recipe(), 0)
    for epoch in expert.epochs:
        assert torch.isfinite(expert[epoch].text).all()


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
