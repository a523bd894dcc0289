"""What `rayvldd prepare` makes in a second, the memory that it takes, and how its shards spread over nodes.

    python tests/benchmarks/preparation.py                        all figures, minutes on two cores
    python tests/benchmarks/preparation.py --pairs 1000,4000      with other numbers of pairs
    python tests/benchmarks/preparation.py --json                 one JSON object on standard output, the rest aside

Drawn scenes of 32 px with five captions each, hashed n-grams of 256 numbers: little work a pair, so that what is left
is the pipeline's own. Every number of pairs has a driver and a Ray of its own. Memory is what the processes have for
themselves (RssAnon), looked at five times a second: of the driver, and of the largest worker. Nodes are simulated, each
a raylet with one CPU, on this machine. Linux only: memory is read from /proc.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from figures import Row, as_json, figures_parser, machine, measured, named, print_rows

from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.storage.folder import FolderStorage

SCRIPT = Path(__file__).resolve()
MIB = 2**20


@dataclass(frozen=True)
class Conditions:
    """How many pairs, and where files lie meanwhile."""

    folder: Path
    pairs: tuple[int, ...]
    tiny: bool


@dataclass(frozen=True)
class Run:
    """One preparation, made in a process of its own."""

    folder: str
    pairs: int
    image_size: int = 32
    nodes: int = 0
    """Simulated nodes of one CPU; 0: a Ray of two CPUs as the command starts it."""
    shard_bytes: int | None = None

    def in_fresh_process(self) -> dict[str, Any]:
        """Measure it; what went wrong there goes wrong here."""
        command = [sys.executable, str(SCRIPT), "--measure", json.dumps(asdict(self))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def measure(self) -> dict[str, Any]:
        """Prepare, then fetch every array to a cache, as the first command on a machine does."""
        from rayvldd.data import array_shards
        from rayvldd.runtime.array_pipeline import prepare_arrays, requested_arrays

        array_shards.SHARD_BYTES = self.shard_bytes or array_shards.SHARD_BYTES
        study, shards = self._study(), array_shards.ArrayShards(FolderStorage(Path(self.folder) / "store"))
        with self._ray(), peak_memory() as peaks:
            begin = time.perf_counter()
            requests = requested_arrays(study, Path(self.folder))
            named_at = time.perf_counter()
            arrays = prepare_arrays(requests, study.resources, shards, lambda *_: None)
            prepared_at = time.perf_counter()
            prepared = dict(peaks)
            cache = ArrayCache(Path(self.folder) / "cache", shards)
            for one in requests:
                cache.get_or_make(one.array.kind, one.array.key, one.array.shape, one.array.dtype, _refuse)
            fetched_at = time.perf_counter()
        by_node = sum((one.made_by_node for one in arrays), Counter[str]())
        return {
            "names_s": named_at - begin,
            "prepare_s": prepared_at - begin,
            "fetch_s": fetched_at - prepared_at,
            "shards": sum(one.made for one in arrays),
            "by_node": list(by_node.values()),
            "driver_mib": prepared["driver"] / MIB,
            "worker_mib": prepared["worker"] / MIB,
            "fetch_mib": peaks["driver"] / MIB,
        }

    def _study(self) -> Study:
        return Study.model_validate(
            {
                "name": "preparation",
                "data": {
                    "source": "toy_scenes",
                    "image_size": self.image_size,
                    "num_train": self.pairs,
                    "num_val": 100,
                    "num_test": 100,
                },
                "model": {
                    "protocol": "full_image_encoder",
                    "image_encoder": {"name": "convnet_d3", "pretrained": False},
                    "text_encoder": {"pooling": "hashed_ngrams", "width": 256},
                },
                "distillation": {"num_pairs": 10},
            }
        )

    @contextlib.contextmanager
    def _ray(self) -> Iterator[None]:
        from rayvldd.runtime.cluster import start_ray

        if not self.nodes:
            with start_ray(None, 2):
                yield
            return
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        for _ in range(self.nodes):
            cluster.add_node(num_cpus=1, object_store_memory=128 * MIB, include_dashboard=False)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """The largest private bytes so far of this process and of any worker of Ray, kept up to date inside the block."""
    peaks, ended = {"driver": 0, "worker": 0}, threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            peaks["driver"] = max(peaks["driver"], _private_bytes(os.getpid()))
            workers = [process.pid for process in psutil.process_iter() if _is_worker(process)]
            peaks["worker"] = max([peaks["worker"], *map(_private_bytes, workers)])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a worker of this process's Ray: a child of a raylet that this process started."""
    try:
        return process.name().startswith("ray::") and os.getpid() in {parent.pid for parent in process.parents()}
    except psutil.Error:
        return False


def _private_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def _refuse(_: np.ndarray) -> None:
    raise AssertionError("it was prepared")


def pairs_per_second(conditions: Conditions) -> Iterator[Row]:
    """The whole of the command without Ray's start, and its memory at several numbers of pairs."""
    size = 16 if conditions.tiny else 32
    found: dict[int, dict[str, Any]] = {}
    for pairs in conditions.pairs:
        with tempfile.TemporaryDirectory(prefix="preparation-", dir=conditions.folder) as folder:
            found[pairs] = of_run = Run(folder, pairs, size).in_fresh_process()
        yield Row(f"names_s_{pairs}", f"seconds to name the arrays of {pairs} pairs, in the driver", of_run["names_s"])
        yield Row(f"prepare_s_{pairs}", "seconds until all shards are there, these included", of_run["prepare_s"])
        yield Row(f"shards_{pairs}", "shards", float(of_run["shards"]))
        yield Row(f"fetch_s_{pairs}", "seconds to copy the arrays to a cache", of_run["fetch_s"])
        yield Row(f"driver_mib_{pairs}", "MiB of the driver's own, at most", of_run["driver_mib"])
        yield Row(f"worker_mib_{pairs}", "MiB of the largest worker's own, at most", of_run["worker_mib"])
        yield Row(f"fetch_mib_{pairs}", "MiB of the driver's own once the arrays are copied", of_run["fetch_mib"])
        yield Row(f"pairs_per_second_{pairs}", "pairs a second", pairs / of_run["prepare_s"])
    few, many = min(found), max(found)
    yield Row("pairs_per_second", "pairs a second, of most pairs", many / found[many]["prepare_s"])
    if few == many:
        return
    for who in ("driver", "worker", "fetch"):
        growth = found[many][f"{who}_mib"] / found[few][f"{who}_mib"]
        what = f"memory at {many} pairs ÷ at {few}, {'driver that fetches' if who == 'fetch' else who}"
        yield Row(f"memory_growth_{who}", what, growth, 1.15)


def node_share(conditions: Conditions) -> Iterator[Row]:
    """Shards made by the node that made fewest, against an equal part of all."""
    pairs, nodes = (200, 2) if conditions.tiny else (4000, 3)
    with tempfile.TemporaryDirectory(prefix="preparation-", dir=conditions.folder) as folder:
        # Images come in about 60 shards, or 20.
        shard_bytes = pairs * 3 * 16 * 16 // (20 if conditions.tiny else 60)
        found = Run(folder, pairs, 16, nodes, shard_bytes).in_fresh_process()
    made = sorted([*found["by_node"], *[0] * (nodes - len(found["by_node"]))])
    for number, shards in enumerate(made, start=1):
        yield Row(
            f"shards_of_node_{number}", f"shards of {found['shards']} made by one of {nodes} nodes", float(shards)
        )
    what = "shards of the node that made fewest ÷ an equal part"
    yield Row("node_share", what, made[0] * nodes / found["shards"], None if conditions.tiny else 0.5, at_least=True)


FIGURES = named(pairs_per_second, node_share)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",") if part.isdecimal() and int(part) >= 100)
    if len(numbers) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: numbers from 100 on, with commas between")
    return numbers


def main() -> None:
    """Measure, print."""
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on a disk, for the files")
    parser.add_argument("--pairs", type=_numbers, default=(25_000, 100_000), help="how many, with commas between")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        print(json.dumps(Run(**json.loads(arguments.measure)).measure()))
        return
    conditions = Conditions(arguments.folder, (200,) if arguments.tiny else arguments.pairs, arguments.tiny)
    to = sys.stderr if arguments.json else sys.stdout
    print(f"{machine('cpu')}, load {' '.join(f'{load:.1f}' for load in os.getloadavg())}", file=to)
    rows = print_rows(measured(FIGURES, arguments.only, conditions), to)
    print(f"load at the end {' '.join(f'{load:.1f}' for load in os.getloadavg())}", file=to)
    if arguments.json:
        print(as_json(rows, "cpu"))


if __name__ == "__main__":
    main()
