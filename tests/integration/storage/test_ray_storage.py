"""Files in Ray's object store: one copy a node, and what outlives which process."""

import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from helpers.storages import empty_object_store
from safetensors.torch import save_file

import rayvldd.storage.ray_store
from rayvldd.errors import StoreError
from rayvldd.storage.ray_store import RayStorage


def values() -> torch.Tensor:
    """A tensor of 16 MiB."""
    return torch.arange(2**22, dtype=torch.float32)


@pytest.fixture(autouse=True)
def workers_need_not_find_this_module() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def storage(local_ray: None) -> RayStorage:
    return empty_object_store()


@contextmanager
def refused(match: str) -> Iterator[None]:
    """The message contains address, reason, allowed values and the next command."""
    with pytest.raises(StoreError, match=f"(?is){match}") as caught:
        yield
    assert re.match(r"(?s)object-store://\w+(/\w+)?: .+; allowed: .+\nNext: .+", str(caught.value))


def put(storage: RayStorage, name: str = "expert") -> None:
    with storage.new_file(name) as path:
        save_file({"image.0": values()}, path)


class Other:
    """Another process."""

    def put(self, storage: RayStorage) -> int:
        put(storage)
        return os.getpid()

    def put_for_itself(self) -> list[Any]:
        """An object that dies with this process."""
        return [ray.put(values().numpy())]

    def growth_mb(self, storage: RayStorage) -> tuple[float, float, float]:
        """Sum of a file's tensor, and by how much reading it raises this process's own and its shared memory."""
        torch.ones(2**16).sum()
        own, shared = memory_mb("RssAnon"), memory_mb("RssShmem")
        total = float(storage.open_tensors("expert").tensor("image.0").double().mean())
        return total, memory_mb("RssAnon") - own, memory_mb("RssShmem") - shared


def memory_mb(kind: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def test_files_outlive_their_process_and_are_shared(storage: RayStorage) -> None:
    others: Any = [ray.remote(Other).options(num_cpus=0).remote() for _ in range(3)]
    ray.get(others[0].put.remote(storage))
    ray.kill(others[0])
    assert torch.equal(storage.open_tensors("expert").tensor("image.0"), values())
    for mean, own, shared in ray.get([other.growth_mb.remote(storage) for other in others[1:]]):
        assert mean == values().double().mean()
        assert shared > 15 and own < 40, "32 MiB are the mean's own, in float64"


def test_tensors_are_views_of_the_shared_memory(storage: RayStorage) -> None:
    put(storage)
    first, second = storage.open_tensors("expert"), storage.open_tensors("expert")
    assert first.tensor("image.0").data_ptr() == second.tensor("image.0").data_ptr()
    assert first.identity == second.identity
    put(storage)
    assert storage.open_tensors("expert").identity != first.identity
    assert torch.equal(first.tensor("image.0"), values()), "still there for who reads it"


def test_threads_open_without_warnings(storage: RayStorage) -> None:
    put(storage)
    with ThreadPoolExecutor(8) as pool:
        for tensor in pool.map(lambda _: storage.open_tensors("expert").tensor("image.0"), range(32)):
            assert tensor[7] == 7


def test_of_many_directories_one_is_made_and_its_death_is_reported(local_ray: None) -> None:
    storages = [RayStorage("new") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda indexed: indexed[1].swap("lease", None, b"%d" % indexed[0]), enumerate(storages)))
    assert won.count(True) == 1
    assert {storage.read("lease") for storage in storages} == {b"%d" % won.index(True)}
    kill_and_wait(ray.get_actor("object-store:new", namespace="rayvldd"))
    with refused("object-store://new/lease: its directory died.*makes the missing files"):
        storages[0].read("lease")
    assert storages[0].names() == []


def kill_and_wait(actor: Any) -> None:
    """Kill an actor; calls that were made before may still be answered."""
    ray.kill(actor)
    with pytest.raises(ray.exceptions.RayActorError):
        while True:
            ray.get(actor.names.remote(), timeout=60)


def wait_until_lost(reference: Any) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            ray.get(reference)
        except ray.exceptions.ObjectLostError:
            return
        time.sleep(0.05)
    pytest.fail("Ray still has the object of a process that it has killed")


def test_a_lost_object_is_named_and_its_name_dropped(storage: RayStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    put(storage)
    put(storage, "other")
    owner: Any = ray.remote(Other).options(num_cpus=0).remote()
    lost = ray.get(owner.put_for_itself.remote())
    ray.kill(owner)
    wait_until_lost(lost[0])
    ask = storage._ask

    def ask_but_find_the_lost(method: str, *values: Any, **options: Any) -> Any:
        answer = ask(method, *values, **options)
        return answer._replace(objects=lost) if method == "entry" else answer

    monkeypatch.setattr(storage, "_ask", ask_but_find_the_lost)
    with refused("object-store://tests/expert: its memory was lost, and its name was dropped"):
        storage.open_tensors("expert")
    monkeypatch.undo()
    assert storage.names() == ["other"]
    put(storage)
    assert torch.equal(storage.open_tensors("expert").tensor("image.0"), values())


def test_an_object_store_that_is_full(storage: RayStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise ray.exceptions.ObjectStoreFullError("no room")

    monkeypatch.setattr(rayvldd.storage.ray_store.ray, "put", full)
    with refused("ObjectStoreFullError.*ray memory"):
        put(storage)
    assert storage.names() == []


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    storage = pickle.loads(pickle.dumps(RayStorage("nowhere")))
    for call in (storage.names, lambda: storage.read("a"), lambda: storage.open_tensors("a")):
        with refused("no Ray is connected"):
            call()
    with refused("no Ray is connected"), storage.new_file("a"):
        pytest.fail("nothing is written for a storage that is not there")


TWO_NODES = """
import ray, torch
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rayvldd.storage.ray_store import RayStorage
from test_ray_storage import Other, values

options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=options)
other_node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
ray.init(address=cluster.address, log_to_driver=False)
there = NodeAffinitySchedulingStrategy(other_node.node_id, soft=False)
writer, reader = (ray.remote(Other).options(scheduling_strategy=there, num_cpus=0).remote() for _ in range(2))
storage = RayStorage("experts")
storage.names()
ray.get(writer.put.remote(storage))
# The writer may still have the pages, so that reading them raises nothing.
mean, own, shared = ray.get(reader.growth_mb.remote(storage))
assert mean == values().double().mean() and shared > 15, (mean, own, shared)
cluster.remove_node(other_node, allow_graceful=False)
assert torch.equal(storage.open_tensors("expert").tensor("image.0"), values())
print("whole")
"""


def test_files_of_another_node_outlive_that_node() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])}
    answer = subprocess.run(
        [sys.executable, "-c", TWO_NODES], env=environment, capture_output=True, text=True, timeout=200
    )
    assert "\nwhole\n" in f"\n{answer.stdout}", answer.stdout + answer.stderr
