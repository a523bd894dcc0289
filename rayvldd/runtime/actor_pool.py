"""Jobs on one task, done side by side by actors that each load the task once.

An actor is a process of its own with its share of CPUs and GPUs. It takes one job at a time; when it dies, another
one takes the job up from its start. Which actor does a job never matters to what comes out: a job carries its seeds.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from rayvldd.config.study import Study
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.errors import RayvlddError, message_of
from rayvldd.models.retrieval_task import RetrievalTask, load_task

MAX_REPLACEMENTS = 3
"""Times that a job is taken up again after its process died; what dies so often dies of the job."""

_POLL_S = 0.5
"""Seconds between two looks at how far the actors are."""


class Job(Protocol):
    """A piece of work on a task; it travels to an actor by pickle."""

    @property
    def title(self) -> str:
        """What people call it, e.g. ``expert 3``."""
        ...

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> Any:
        """Do the work; ``note`` tells how far it is."""
        ...


@dataclass(frozen=True)
class ResourceRequest:
    """What one actor takes of the machines, and the setting that says so."""

    num_cpus: int
    num_gpus: float
    setting: str
    """The setting that says how many CPUs, for messages."""
    custom: Mapping[str, float] = field(default_factory=dict)
    """Amounts of further resources, by the names that the cluster's nodes declare."""

    def actors_that_fit(self, resources: Mapping[str, float]) -> int:
        """How many actors the machines hold at the same time."""
        fit = int(resources.get("CPU", 0) // self.num_cpus)
        if self.num_gpus:
            gpus = resources.get("GPU", 0)
            # Ray never splits an actor over GPUs: of shares of 0.4, two fit on each.
            fit = min(fit, int(gpus * (1 // self.num_gpus) if self.num_gpus < 1 else gpus // self.num_gpus))
        for name, amount in self.custom.items():
            fit = min(fit, int(resources.get(name, 0) // amount))
        return fit


def run_jobs(
    jobs: Sequence[Job],
    study: Study,
    cache_folder: Path,
    share: ResourceRequest,
    on_progress: Callable[[int, dict[int, int]], None] | None = None,
    *,
    at_a_time: int | None = None,
) -> list[Any]:
    """Do all jobs, as many side by side as fit, and return what each returned, in order.

    However this ends, no actor is left; Ctrl-C included.

    Args:
        jobs: The work.
        study: The study at one point, whose task the jobs are about.
        cache_folder: Where decoded images and embeddings are kept.
        share: What each actor takes.
        on_progress: Told the number of finished jobs, and for each running one the last it noted, now and then.
        at_a_time: The most jobs side by side; default: as many as fit.

    Raises:
        RayvlddError: what a job raised, or that its processes died too often, or that not one actor fits.
    """
    if not jobs:
        return []
    fit = share.actors_that_fit(ray.cluster_resources())
    if fit < 1:
        raise does_not_fit(share, ray.cluster_resources())
    crew = _ActorPool(jobs, study, cache_folder, share, at_a_time or len(jobs))
    try:
        while crew.results_missing:
            crew.hand_out()
            crew.collect()
            if on_progress:
                on_progress(len(crew.results), crew.running())
    finally:
        crew.dismiss()
    return [crew.results[number] for number in range(len(jobs))]


class _ActorPool:
    """The actors, and which job each is at."""

    def __init__(
        self, jobs: Sequence[Job], study: Study, cache_folder: Path, share: ResourceRequest, at_a_time: int
    ) -> None:
        self.results: dict[int, Any] = {}
        self._jobs = jobs
        self._share = share
        self._at_a_time = at_a_time
        self._reached = dict.fromkeys(range(len(jobs)), 0)
        """The furthest that a job had come when its process died."""
        self._waiting = deque(range(len(jobs)))
        self._deaths = dict.fromkeys(range(len(jobs)), 0)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[int, Any]] = {}
        """What a job will return, to its number and actor."""
        self._asked: dict[Any, int] = {}
        """What an actor will tell of its progress, to the number of the job it was asked about."""
        self._noted: dict[int, int] = {}
        # max_concurrency 2: one thread works, the other tells how far the work is. SPREAD: a node that goes away takes
        # as few actors with it as possible.
        actor = ray.remote(_Worker).options(
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus,
            resources=dict(share.custom),
            max_concurrency=2,
            scheduling_strategy="SPREAD",
        )
        device = "cuda" if share.num_gpus else "cpu"
        self._hire = lambda: actor.remote(study, cache_folder, share.num_cpus, device)

    @property
    def results_missing(self) -> bool:
        return len(self.results) < len(self._jobs)

    def running(self) -> dict[int, int]:
        return {number: self._noted.get(number, 0) for number, _ in self._busy.values()}

    def hand_out(self) -> None:
        """Give every free place in the crew a job; there are more or fewer places when nodes come or go."""
        # One at least: where every node is gone at the moment, it waits for the next.
        size = max(1, min(self._share.actors_that_fit(ray.cluster_resources()), self._at_a_time))
        while self._waiting and len(self._busy) < size:
            number = self._waiting.popleft()
            actor: Any = self._idle.pop() if self._idle else self._hire()
            self._busy[actor.work.remote(self._jobs[number])] = (number, actor)
        # Who has nothing to do gives up its share: an actor hired just before Ray noticed that a node is gone would
        # wait for that share for ever.
        for actor in self._idle:
            ray.kill(actor)
        self._idle = []

    def collect(self) -> None:
        """Wait a little for results and news."""
        done, _ = ray.wait(list(self._busy), num_returns=1, timeout=_POLL_S)
        for ref in done:
            number, actor = self._busy.pop(ref)
            self._take(ref, number, actor)
        self._read_news()
        about = set(self._asked.values())
        for number, actor in self._busy.values():
            if number not in about:
                self._asked[actor.progress.remote()] = number

    def dismiss(self) -> None:
        """End all actors at once, whatever they are at."""
        for actor in [*self._idle, *(actor for _, actor in self._busy.values())]:
            ray.kill(actor)
        self._idle, self._busy = [], {}

    def _take(self, ref: Any, number: int, actor: Any) -> None:
        try:
            self.results[number] = ray.get(ref)
        except RayTaskError as error:
            # The job itself failed: its own error, for Ray's has the worker's whole traceback for a message.
            if isinstance(error.cause, RayvlddError):
                raise error.cause from None
            raise
        except RayError as error:
            reached = self._noted.pop(number, 0)
            ray.kill(actor)  # it may live and only be out of reach
            self._replace(number, reached, error)
        else:
            self._idle.append(actor)

    def _replace(self, number: int, reached: int, error: RayError) -> None:
        # A job that got further than ever is not what its processes die of: spot nodes may go as often as they like.
        self._deaths[number] = self._deaths[number] + 1 if reached <= self._reached[number] else 1
        self._reached[number] = max(reached, self._reached[number])
        if self._deaths[number] > MAX_REPLACEMENTS:
            tries, reason = self._deaths[number], message_of(error)
            raise RayvlddError(
                f"{self._jobs[number].title}: its process died, {tries} of {tries} tries: {reason}; "
                f"the usual cause is that memory ran out",
                next_command="the same command, which keeps what is finished; fewer run side by side with a larger "
                f"--set {self._share.setting}=…",
            ) from error
        self._waiting.appendleft(number)

    def _read_news(self) -> None:
        told, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        for ref in told:
            number = self._asked.pop(ref)
            try:
                self._noted[number] = ray.get(ref)
            except RayError:
                pass  # the actor died; its job will say so


class _Worker:
    """The actor: loads the task at its first job, then does one job after the other."""

    def __init__(self, study: Study, cache_folder: Path, num_threads: int, device: str) -> None:
        self._study = study
        self._cache = open_cache(cache_folder)
        self._num_threads = num_threads
        self._device = device
        self._task: RetrievalTask | None = None
        self._progress = 0

    def work(self, job: Job) -> Any:
        self._progress = 0
        torch.set_num_threads(self._num_threads)  # here, not at the start: it counts for the calling thread alone
        if self._task is None:
            self._task = load_task(self._study.data, self._study.model, self._cache, device=self._device)
        return job.do(self._task, self._note)

    def progress(self) -> int:
        return self._progress

    def _note(self, progress: int) -> None:
        self._progress = progress


def does_not_fit(share: ResourceRequest, resources: Mapping[str, float]) -> RayvlddError:
    """The error for a share that no machine has."""
    wanted = {"CPU": float(share.num_cpus), "GPU": share.num_gpus, **share.custom}
    there = ", ".join(f"{resources.get(name, 0):g} {name}" for name in wanted)
    return RayvlddError(
        f"{share.setting}: one actor takes {', '.join(f'{amount:g} {name}' for name, amount in wanted.items())}; "
        f"allowed: at most what Ray has, {there}",
        next_command=f"the same command with smaller --set {share.setting}=…",
    )
