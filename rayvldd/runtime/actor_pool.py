"""Actor pool: run work items on one task in parallel, with actors that keep the task of their last item.

An actor is a process with its own CPUs and GPUs. It runs one item at a time. If it dies, another actor restarts
the item. Results do not depend on which actor runs an item, because an item carries its seeds.
"""

import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from rayvldd.config.settings import DataSettings, ModelSettings, ResourceSettings, actors_on_gpus
from rayvldd.config.study import Study
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.errors import RayvlddError, message_of
from rayvldd.models.device_options import DeviceOptions
from rayvldd.models.gpus import further_gpus, limit_gpu_memory
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.runtime.cluster import refuse_dead_ray

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

MAX_REPLACEMENTS = 3
"""Restarts of an item after its process died; more deaths without progress are attributed to the item itself."""

_POLL_S = 0.5
"""Seconds between two progress checks."""


class WorkItem(Protocol[Result_co]):
    """A unit of work on a task; it is pickled and sent to an actor."""

    @property
    def title(self) -> str:
        """Name for messages, e.g. ``expert 3``."""
        ...

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> Result_co:
        """Run the item; call ``note`` with its progress."""
        ...


@dataclass(frozen=True)
class ResourceRequest:
    """Resources of one actor, and the setting that determines them."""

    num_cpus: int
    num_gpus: float
    setting: str = field(compare=False)
    """Name of the setting for the CPUs, for messages."""
    custom: Mapping[str, float] = field(default_factory=dict)
    """Amounts of further resources, by the names that the cluster nodes declare."""

    def actors_that_fit(self, resources: Mapping[str, float]) -> int:
        """Return the number of actors that fit at the same time."""
        fit = int(resources.get("CPU", 0) // self.num_cpus)
        if self.num_gpus:
            fit = min(fit, actors_on_gpus(resources.get("GPU", 0), self.num_gpus))
        for name, amount in self.custom.items():
            fit = min(fit, int(resources.get(name, 0) // amount))
        return fit


def run_work(
    items: Sequence[WorkItem[Result]],
    study: Study,
    cache_folder: Path,
    request: ResourceRequest,
    on_progress: Callable[[int, dict[int, int]], None] | None = None,
    *,
    at_a_time: int | None = None,
    on_finished: Callable[[int, float], None] | None = None,
) -> list[Result]:
    """Run all items, as many in parallel as fit, and return their results in order.

    All actors are stopped in any case, also after Ctrl-C; in a block of :func:`keeping_actors`, at its end.

    Args:
        items: Work items to run.
        study: The study at one point, which determines the task.
        cache_folder: Folder of decoded images and embeddings.
        request: Resources of each actor.
        on_progress: Called repeatedly with the number of finished items and the last progress of each running item.
        at_a_time: Maximum number of parallel items; default: as many as fit.
        on_finished: Called with the number of each item that has finished and its seconds, without the start of its
            actor and the loading of the task.

    Raises:
        RayvlddError: when an item raises it, its processes die too often, not even one actor fits, or a local Ray dies.
    """
    if not items:
        return []
    fit = request.actors_that_fit(ray.cluster_resources())
    if fit < 1:
        raise does_not_fit(request, ray.cluster_resources())
    pool = _ActorPool(items, study, cache_folder, request, at_a_time or len(items), on_finished)
    if _kept is not None:
        pool.employ(_kept.of(request))
    try:
        while pool.results_missing:
            refuse_dead_ray()
            pool.hand_out()
            pool.collect()
            if on_progress:
                on_progress(len(pool.results), pool.running())
        if _kept is not None:
            _kept.actors = pool.release()
    finally:
        pool.dismiss()
    return [pool.results[number] for number in range(len(items))]


@contextlib.contextmanager
def keeping_actors() -> Iterator[None]:
    """Keep the actors of each :func:`run_work` in the block for the next one with the same resources.

    For runs directly after each other: an actor takes seconds to start, most of them to import torch. Kept actors hold
    their resources, so the block must contain nothing else that needs them, and must end before Ray does.
    """
    global _kept
    if _kept is not None:
        yield
        return
    _kept = _KeptActors()
    try:
        yield
    finally:
        _kept.dismiss()
        _kept = None


class _KeptActors:
    """Idle actors of the last run, for the next one."""

    def __init__(self) -> None:
        self.actors: list[ActorHandle[_Worker]] = []
        self._request: ResourceRequest | None = None

    def of(self, request: ResourceRequest) -> "list[ActorHandle[_Worker]]":
        """Hand over the actors with these resources; those with others are stopped."""
        if request != self._request:
            self.dismiss()
        self._request = request
        actors, self.actors = self.actors, []
        return actors

    def dismiss(self) -> None:
        """Stop all actors."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


_kept: _KeptActors | None = None
"""The actors of the block of :func:`keeping_actors`; None outside of one."""


class _ActorPool(Generic[Result]):
    """Actors and the items assigned to them."""

    def __init__(
        self,
        items: Sequence[WorkItem[Result]],
        study: Study,
        cache_folder: Path,
        request: ResourceRequest,
        at_a_time: int,
        on_finished: Callable[[int, float], None] | None = None,
    ) -> None:
        self.results: dict[int, Result] = {}
        self._items = items
        self._source = _TaskSource(study.data, study.model, study.resources, cache_folder)
        self._request = request
        self._at_a_time = at_a_time
        self._on_finished = on_finished
        self._reached = dict.fromkeys(range(len(items)), 0)
        """By item: furthest progress at the time its process died."""
        self._waiting = deque(range(len(items)))
        self._deaths = dict.fromkeys(range(len(items)), 0)
        self._idle: list[ActorHandle[_Worker]] = []
        self._busy: dict[ray.ObjectRef[tuple[Result, float]], tuple[int, ActorHandle[_Worker]]] = {}
        """By reference to the result of an item: the number of the item and its actor."""
        self._queries: dict[ray.ObjectRef[int], int] = {}
        """By reference to a progress query: the number of its item."""
        self._noted: dict[int, int] = {}
        # max_concurrency 2: one thread works, the other answers progress queries. SPREAD: losing a node loses as few
        # actors as possible.
        actor = ray.remote(_Worker).options(
            num_cpus=request.num_cpus,
            num_gpus=request.num_gpus,
            resources=dict(request.custom),
            max_concurrency=2,
            scheduling_strategy="SPREAD",
        )
        self._hire = lambda: actor.remote(request.num_cpus, request.num_gpus)

    @property
    def results_missing(self) -> bool:
        return len(self.results) < len(self._items)

    def running(self) -> dict[int, int]:
        return {number: self._noted.get(number, 0) for number, _ in self._busy.values()}

    def hand_out(self) -> None:
        """Assign waiting items to actors while resources are free; the number of actors follows the nodes."""
        # At least one: if no node is available at the moment, its actor waits for the next one.
        size = max(1, min(self._request.actors_that_fit(ray.cluster_resources()), self._at_a_time))
        while self._waiting and len(self._busy) < size:
            number = self._waiting.popleft()
            actor: Any = self._idle.pop() if self._idle else self._hire()
            self._busy[actor.work.remote(self._items[number], self._source)] = (number, actor)
        # Idle actors release their resources: an actor created just before Ray noticed a lost node would otherwise
        # wait for them for ever. They are kept for a next run while every busy actor is known to have started.
        if _kept is None or any(number not in self._noted for number, _ in self._busy.values()):
            for actor in self._idle:
                ray.kill(actor)
            self._idle = []

    def employ(self, actors: "list[ActorHandle[_Worker]]") -> None:
        """Use the idle actors of an earlier run before new ones."""
        self._idle = actors

    def release(self) -> "list[ActorHandle[_Worker]]":
        """Hand over the idle actors, which this pool then no longer stops."""
        actors, self._idle = self._idle, []
        return actors

    def collect(self) -> None:
        """Wait briefly for results and progress."""
        done, _ = ray.wait(list(self._busy), num_returns=1, timeout=_POLL_S)
        for ref in done:
            number, actor = self._busy.pop(ref)
            self._take(ref, number, actor)
        self._read_progress()
        about = set(self._queries.values())
        for number, actor in self._busy.values():
            remote: Any = actor
            if number not in about:
                self._queries[remote.progress.remote()] = number

    def dismiss(self) -> None:
        """Kill all actors immediately."""
        for actor in [*self._idle, *(actor for _, actor in self._busy.values())]:
            ray.kill(actor)
        self._idle, self._busy = [], {}

    def _take(self, ref: "ray.ObjectRef[tuple[Result, float]]", number: int, actor: "ActorHandle[_Worker]") -> None:
        try:
            self.results[number], seconds = ray.get(ref)
        except RayTaskError as error:
            # The item itself failed: raise its own error, because the message of Ray's error is the whole traceback.
            if isinstance(error.cause, RayvlddError):
                raise error.cause from None
            raise
        except RayError as error:
            reached = self._noted.pop(number, 0)
            ray.kill(actor)  # it may be alive but unreachable
            self._replace(number, reached, error)
        else:
            self._idle.append(actor)
            if self._on_finished:
                self._on_finished(number, seconds)

    def _replace(self, number: int, reached: int, error: RayError) -> None:
        # If the item progressed further than before, its death is not attributed to it: spot nodes may end at any time.
        self._deaths[number] = self._deaths[number] + 1 if reached <= self._reached[number] else 1
        self._reached[number] = max(reached, self._reached[number])
        if self._deaths[number] > MAX_REPLACEMENTS:
            tries, reason = self._deaths[number], message_of(error)
            raise RayvlddError(
                f"{self._items[number].title}: its process died, {tries} of {tries} tries: {reason}; "
                f"the usual cause is that memory ran out",
                next_command="the same command, which keeps finished work; fewer run side by side with a larger "
                f"--set {self._request.setting}=…",
            ) from error
        self._waiting.appendleft(number)

    def _read_progress(self) -> None:
        answered, _ = (
            ray.wait(list(self._queries), num_returns=len(self._queries), timeout=0) if self._queries else ([], [])
        )
        for ref in answered:
            number = self._queries.pop(ref)
            with contextlib.suppress(RayError):  # the actor died; its item reports this
                self._noted[number] = ray.get(ref)


@dataclass(frozen=True)
class _TaskSource:
    """What a task is loaded from; two studies that agree in it have the same task."""

    data: DataSettings
    model: ModelSettings
    resources: ResourceSettings
    cache_folder: Path


class _Worker:
    """The actor: runs one item at a time, and loads a task if it is not that of its last item."""

    def __init__(self, num_threads: int, num_gpus: float) -> None:
        self._num_threads = num_threads
        self._num_gpus = num_gpus
        self._loaded: tuple[_TaskSource, RetrievalTask] | None = None
        self._progress = 0

    def work(self, item: WorkItem[Result], source: _TaskSource) -> tuple[Result, float]:
        """Return the result of an item, and its seconds."""
        self._progress = 0
        torch.set_num_threads(self._num_threads)  # here, because it applies only to the calling thread
        task = self._task_of(source)
        began_s = time.monotonic()
        return item.do(task, self._note), time.monotonic() - began_s

    def _task_of(self, source: _TaskSource) -> RetrievalTask:
        if self._loaded is None or self._loaded[0] != source:
            if self._loaded is not None:  # memory may have no room for two tasks
                self._loaded = None
                gc.collect()
                torch.cuda.empty_cache()
            limit_gpu_memory(self._num_gpus)
            task = load_task(
                source.data,
                source.model,
                open_cache(source.cache_folder),
                device="cuda" if self._num_gpus else "cpu",
                further_devices=further_gpus(self._num_gpus),
                device_cache_gb=source.resources.device_cache_gb,
                options=DeviceOptions.of(source.resources),
            )
            self._loaded = source, task
        return self._loaded[1]

    def progress(self) -> int:
        return self._progress

    def _note(self, progress: int) -> None:
        self._progress = progress


def does_not_fit(request: ResourceRequest, resources: Mapping[str, float]) -> RayvlddError:
    """Build the error for a resource request that exceeds the available resources."""
    amounts = {"CPU": float(request.num_cpus), "GPU": request.num_gpus, **request.custom}
    there = ", ".join(f"{resources.get(name, 0):g} {name}" for name in amounts)
    return RayvlddError(
        f"{request.setting}: one actor takes {', '.join(f'{amount:g} {name}' for name, amount in amounts.items())}; "
        f"allowed: at most what Ray has, {there}",
        next_command=f"the same command with smaller --set {request.setting}=…",
    )
