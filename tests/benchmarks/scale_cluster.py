"""Clusters of many nodes on one machine, and the work of a study on them with sleeps in the place of training.

Everything else is what a user runs: the actor pool distributes experts, which are leased and kept epoch by epoch;
Ray Tune and Optuna run trials, which report, save their state and are entered in the ledger and in MLflow.
"""

import heapq
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Self
from unittest.mock import patch

import psutil
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from search_overhead import OUTER_STEPS, RunTrial, asleep, run_sweep, study_of_size

from rayvldd.config.domains import SettingValue
from rayvldd.config.settings import ExpertSettings
from rayvldd.data.array_cache import ArrayCache
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.experts import training
from rayvldd.experts.get_or_make import ExpertRequest
from rayvldd.experts.recipe import expert_recipe
from rayvldd.experts.recipe import expert_training as training_of
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search import sweep, trial, tune_adapter
from rayvldd.hyperparameter_search.trial import TrialContext
from rayvldd.hyperparameter_search.trial_report import Reporter
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.runtime import expert_training
from rayvldd.runtime.expert_training import ExpertWork, make_experts
from rayvldd.storage.folder import FolderStorage

_OBJECT_STORE_BYTES = 80 * 2**20
"""A node's; little more than the least that Ray takes."""
_TRIES = 5
"""To start a node."""


class Nodes:
    """A Ray cluster of one CPU a node; its head has none, as that of clusters/aws_gpu.yaml."""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Nodes, workers and driver share two cores: a process that waits for a core is not dead.
        patient = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": patient})
        self._nodes: list[Any] = []
        ray.init(self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def resize(self, num_nodes: int) -> None:
        """Add or remove nodes until the cluster has this number."""
        while len(self._nodes) > num_nodes:
            self._cluster.remove_node(self._nodes.pop(), allow_graceful=True)
        while len(self._nodes) < num_nodes:
            self._nodes.append(self._new_node())
        deadline = time.monotonic() + 120
        while ray.cluster_resources().get("CPU", 0) != num_nodes:
            if time.monotonic() > deadline:
                raise RuntimeError(f"of {num_nodes} nodes, {ray.cluster_resources().get('CPU', 0):g} are there")
            time.sleep(0.1)

    def _new_node(self) -> Any:
        """Start a node; on a busy machine Ray gives up after 30 seconds, which no setting changes."""
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._cluster.add_node(num_cpus=1, object_store_memory=_OBJECT_STORE_BYTES)
            except Exception as error:  # Ray raises a bare Exception here
                if not tries_left or "timed out during startup" not in str(error):
                    raise
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """End all of it."""
        ray.shutdown()
        self._cluster.shutdown()


@dataclass(frozen=True)
class Spell:
    """One piece of work as its process saw it; times are seconds since 1970, on the one clock of this machine."""

    node: str
    began: float
    """When the worker had imported everything and loaded the task, and could begin."""
    ended: float
    slept: float
    """Seconds of sleep, measured."""


@dataclass(frozen=True)
class Scaling:
    """A number of pieces of work on a number of nodes."""

    num_nodes: int
    spells: Sequence[Spell]
    began: float
    ended: float
    driver_cpu_s: float
    machine_cpu: float
    """Share of all cores that was busy, of whatever process."""
    load_average: float
    """Of the last minute, when it began: what others do on the machine."""

    @property
    def an_hour(self) -> float:
        """Pieces an hour, from the first worker's readiness on."""
        return 3600 * len(self.spells) / (self.ended - min(self._ready))

    @property
    def efficiency(self) -> float:
        """Ideal ÷ measured seconds, both from the moment when the first worker was ready.

        Ideal: each node takes its next piece the moment that it is free, from when its own worker was ready, and a
        piece takes nothing but its sleep. Nodes that have no piece left are idle in the ideal, too (whole rounds).
        """
        free = list(self._ready)
        heapq.heapify(free)
        length, end = mean(spell.slept for spell in self.spells), 0.0
        for _ in self.spells:
            end = heapq.heappop(free) + length
            heapq.heappush(free, end)
        first = min(self._ready)
        return (end - first) / (self.ended - first)

    @property
    def all_in(self) -> float:
        """Whole rounds of sleep ÷ the wall clock of all of it, with the start of the workers."""
        rounds = -(-len(self.spells) // self.num_nodes)
        return rounds * mean(spell.slept for spell in self.spells) / (self.ended - self.began)

    @property
    def throughput(self) -> float:
        """Seconds slept ÷ seconds that the nodes had from the readiness of each, idle ones at the end included."""
        return sum(spell.slept for spell in self.spells) / sum(self.ended - ready for ready in self._ready)

    @property
    def worker_start_s(self) -> float:
        """Mean seconds until a node's worker was ready."""
        return mean(self._ready) - self.began

    @property
    def driver_cpu(self) -> float:
        """CPU seconds of the driver a second."""
        return self.driver_cpu_s / (self.ended - self.began)

    @property
    def _ready(self) -> list[float]:
        """When the first worker of each node was ready; a node that was given nothing could have begun with the first.

        A worker that took another's place costs what it costs.
        """
        first: dict[str, float] = {}
        for spell in self.spells:
            first[spell.node] = min(first.get(spell.node, spell.began), spell.began)
        return [*first.values(), *[min(first.values())] * (self.num_nodes - len(first))]


def sleeping_experts(folder: Path, num_nodes: int, num_experts: int, seconds: float, tiny: bool) -> Scaling:
    """Make experts on the actor pool, each of which sleeps for some seconds, in a new store."""
    study = study_of_size(f"experts_{num_nodes}", 1, 1, tiny).at({"experts.num_experts": num_experts})
    cache, records = folder / "cache", folder / f"experts_{num_nodes}"
    task = load_task(study.data, study.model, ArrayCache(cache), device="cpu")
    recipe = expert_recipe(study, task.fingerprints)
    epochs = frozenset(range(study.experts.epochs + 1))
    request = ExpertRequest(recipe, training_of(study), tuple(range(num_experts)), epochs)
    store = ExpertStore(FolderStorage(records / "store"))
    job, meter = partial(_SleepingExpert, records=records, seconds=seconds), _Meter()
    with patch.object(expert_training, "ExpertWork", job), meter:
        made = make_experts(study, request, store, cache, lambda _: None)
    if made != num_experts or store.finished(recipe, request.epochs) != list(request.indexes):
        raise RuntimeError(f"{made} experts were made of {num_experts}")
    return meter.scaling(num_nodes, records)


def sleeping_trials(folder: Path, num_nodes: int, num_trials: int, seconds: float, tiny: bool) -> Scaling:
    """Run the command ``sweep`` for some trials, each of which sleeps for some seconds, and measure its search."""
    run_sweep(study_of_size("prepared", 1, 1, tiny), folder, asleep(lambda: None), tiny)
    study, records = study_of_size(f"trials_{num_nodes}", num_trials, num_nodes, tiny), folder / f"trials_{num_nodes}"
    records.mkdir()
    meter = _Meter()

    def search(*arguments: Any) -> None:
        with meter:
            tune_adapter.search(*arguments)

    with patch.object(sweep, "search", search):
        run_sweep(study, folder, _sleeping_trial(records, seconds), tiny)
    return meter.scaling(num_nodes, records)


class _Meter:
    """Seconds and CPU of a block."""

    def __enter__(self) -> Self:
        self._load_average, self._before, self._began = os.getloadavg()[0], self._cpu(), time.time()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended, self._after = time.time(), self._cpu()

    def scaling(self, num_nodes: int, records: Path) -> Scaling:
        """The scaling that follows from the records that workers wrote to a folder."""
        spells = [Spell(**json.loads(file.read_text())) for file in sorted(records.glob("*.json"))]
        driver, busy, total = (after - before for before, after in zip(self._before, self._after, strict=True))
        return Scaling(num_nodes, spells, self._began, self._ended, driver, busy / total, self._load_average)

    @staticmethod
    def _cpu() -> tuple[float, float, float]:
        """CPU seconds of this process; busy ones, and all, of the machine."""
        driver, machine = psutil.Process().cpu_times(), psutil.cpu_times()
        return driver.user + driver.system, sum(machine) - machine.idle - machine.iowait, sum(machine)


@dataclass(frozen=True)
class _SleepingExpert(ExpertWork):
    """The fleet's own job, but for the passes over the data and the validation, which are sleeps."""

    records: Path
    seconds: float

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> int:
        """Do the work unchanged, and write a record of it."""
        sleep = _Sleep(self.seconds / self.request.training.settings.epochs)

        def train(_: RetrievalTask, __: ExpertSettings, parameters: Parameters, ___: Any) -> tuple[Parameters, float]:
            sleep()
            return Parameters(parameters.image.clone(), parameters.text.clone()), 1.0

        def score(*_: Any) -> RetrievalMetrics:
            return RetrievalMetrics(*[10.0] * 6)

        with patch.object(training, "_train_epoch", train), patch.object(training, "score", score):
            made = super().do(task, note)
        sleep.write(self.records, str(self.request.indexes[0]))
        return made


def _sleeping_trial(records: Path, seconds: float) -> RunTrial:
    """A trial of the search benchmark that writes a record of its sleep."""

    def run_trial(trial_id: str, point: Mapping[str, SettingValue], context: TrialContext, report: Reporter) -> None:
        trial.task_at(context.study.at(point), context.cache)  # kept by the process for its next trials
        sleep = _Sleep(seconds / OUTER_STEPS)
        asleep(sleep)(trial_id, point, context, report)
        sleep.write(records, trial_id)

    return run_trial


class _Sleep:
    """Sleeps, and knows how long it did."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._slept, self._began = seconds, 0.0, time.time()

    def __call__(self) -> None:
        began = time.perf_counter()
        time.sleep(self._seconds)
        self._slept += time.perf_counter() - began

    def write(self, folder: Path, name: str) -> None:
        """Leave a file for the driver."""
        node = ray.get_runtime_context().get_node_id()
        spell = Spell(node, self._began, time.time(), self._slept)
        (folder / f"{name}.json").write_text(json.dumps(asdict(spell)))


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find this folder
