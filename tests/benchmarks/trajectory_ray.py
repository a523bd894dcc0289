"""What needs a Ray: many readers of one node's memory, fresh processes at the object store, and two actors or one."""

import logging
import os
import shutil
import time
from pathlib import Path
from statistics import mean
from typing import Any

import ray
from trajectory_cases import REACHED, Layouts, drawn_expert, drawn_recipe, save_expert
from trajectory_loss import LOSS_CASES, study_of
from trajectory_reading import first_segment_seconds

from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.experts.get_or_make import ExpertRequest
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.models.retrieval_task import load_task
from rayvldd.runtime.expert_training import make_experts
from rayvldd.storage.folder import FolderStorage


def start_ray(object_store_bytes: int) -> None:
    """A Ray of two CPUs for the rest of the process, with room for a set of experts."""
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        tests = Path(__file__).parents[1]  # workers import what these modules import: from here and from the checkout
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(tests), str(tests.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


class _Reader:
    """A process that holds what it has read."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def private_bytes(self) -> int:
        """Memory that no other process shares."""
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def read(self, store: ExpertStore, num_experts: int) -> float:
        """Every number of the set, checked and used."""
        experts = [store.load(drawn_recipe(), index) for index in range(num_experts)]
        self._held = [experts, [expert[epoch] for expert in experts for epoch in expert.epochs]]
        return sum(float(side.sum()) for snapshot in self._held[1] for side in snapshot)

    def first_segment(self, store: ExpertStore) -> dict[str, float]:
        """Seconds to the first segment of experts that this process has not seen."""
        return first_segment_seconds(store)


def put_set(name: str, layouts: Layouts, num_experts: int) -> ExpertStore:
    """A set of the epochs that the paper reaches, in the object store."""
    from rayvldd.storage.ray_store import RayStorage

    store = ExpertStore(RayStorage(name))
    for index in range(num_experts):
        save_expert(store, drawn_recipe(), index, drawn_expert(layouts, index, REACHED), layouts)
    return store


def drop_set(store: ExpertStore) -> None:
    """Free its memory."""
    for name in store.storage.names():
        store.storage.delete(name)


def private_growth(store: ExpertStore, num_experts: int, num_readers: int) -> list[int]:
    """Private bytes that each of several processes gains by reading the whole set, all at the same time."""
    readers: list[Any] = [ray.remote(_Reader).options(num_cpus=0).remote() for _ in range(num_readers)]
    small = put_set("warm-up", Layouts(*_tiny_layouts()), 1)
    # What a process loads to read anything at all, libraries and connections, is no part of the set.
    ray.get([reader.read.remote(small, 1) for reader in readers])
    before = ray.get([reader.private_bytes.remote() for reader in readers])
    sums = ray.get([reader.read.remote(store, num_experts) for reader in readers])
    assert len(set(sums)) == 1
    after = ray.get([reader.private_bytes.remote() for reader in readers])
    for reader in readers:
        ray.kill(reader)
    drop_set(small)
    return [late - early for early, late in zip(before, after, strict=True)]


def _tiny_layouts() -> Any:
    from rayvldd.models.parameters import ParameterLayout

    return (ParameterLayout(("weight",), ((64,),)),) * 2


def first_segments_in_actors(store: ExpertStore, num_processes: int) -> list[dict[str, float]]:
    """Seconds to first segments in fresh processes of Ray, one after the other."""
    found = []
    for _ in range(num_processes):
        reader: Any = ray.remote(_Reader).options(num_cpus=0).remote()
        ray.get(reader.private_bytes.remote())  # it is up
        found.append(ray.get(reader.first_segment.remote(store)))
        ray.kill(reader)
    return found


def scaling(folder: Path, rounds: int, tiny: bool) -> dict[str, float]:
    """Experts an hour, two actors of one thread ÷ one, on a Ray of two CPUs.

    The start of actors and the loading of the task are excluded by differences: seconds of many epochs less those
    of few, with one expert at a time and with two at a time. Training, evaluation and the keeping of every epoch stay.
    """
    few, many = (2, 3) if tiny else (2, 10)
    study = study_of(LOSS_CASES["heads_only" if tiny else "resnet18"], tiny)
    if not tiny:
        study = study.at({"data.num_train": 1500, "experts.captions_per_image": "one"})
    taken: dict[tuple[int, int], list[float]] = {}
    epochs: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for actors in (1, 2):
            for length in (few, many):
                seconds, of_epochs = _fleet_seconds(study.at({"experts.epochs": length}), actors, folder)
                taken.setdefault((actors, length), []).append(seconds)
                epochs[actors] += of_epochs
    one, two = (min(taken[actors, many]) - min(taken[actors, few]) for actors in (1, 2))
    return {"scaling": 2 * one / two, "by_epochs": 2 * mean(epochs[1]) / mean(epochs[2]), "epoch_s": mean(epochs[1])}


def _fleet_seconds(study: Study, num_experts: int, folder: Path) -> tuple[float, list[float]]:
    """Make experts, each on its own actor; return the wall-clock time and that of every epoch."""
    cache, experts = folder / "cache", folder / "experts"
    task = load_task(study.data, study.model, ArrayCache(cache), device="cpu")
    recipe = expert_recipe(study, task.fingerprints)
    kept = frozenset(range(study.experts.epochs + 1))
    request = ExpertRequest(recipe, expert_training(study), tuple(range(num_experts)), kept)
    store = ExpertStore(FolderStorage(experts))
    begin = time.perf_counter()
    made = make_experts(study, request, store, cache)
    seconds = time.perf_counter() - begin
    assert made == num_experts
    metrics = [epoch["seconds"] for index in range(num_experts) for epoch in store.metrics(recipe, index)]
    shutil.rmtree(experts)
    return seconds, metrics
