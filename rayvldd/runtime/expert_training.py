"""Train experts in parallel with Ray actors; each finished expert is stored immediately."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.experts.get_or_make import ExpertRequest, make, missing_of
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.runtime.actor_pool import ResourceRequest, run_work
from rayvldd.runtime.cluster import start_ray
from rayvldd.runtime.resources import resources_of_experts
from rayvldd.storage.lease import LeaseHolder

_POLL_S = 0.5
"""Seconds between two checks of experts that another command trains."""


@dataclass(frozen=True)
class ExpertProgress:
    """Progress of an expert set."""

    finished: int
    """Number of complete experts, including those that existed before."""
    total: int
    """Number of requested experts."""
    running: dict[int, int] = field(default_factory=dict)
    """By expert in training: its last finished epoch."""
    elsewhere: dict[int, int] = field(default_factory=dict)
    """By expert that another command trains: its last finished epoch."""
    seconds_left: float | None = None
    """Estimate from the epochs trained so far; None before the first epochs."""


OnExpertProgress = Callable[[ExpertProgress], None]


def make_experts(
    study: Study,
    request: ExpertRequest,
    store: ExpertStore,
    cache_folder: Path,
    on_progress: OnExpertProgress | None = None,
    display: ProgressDisplay | None = None,
) -> int:
    """Train the missing experts of a set, and return the number of experts trained by this call.

    The parameters of an expert depend on its number, not on the actor that trains it or on interruptions. Ctrl-C keeps
    every finished epoch, and the next call trains the rest. The call waits for experts that another command trains, and
    takes them over if that command dies.

    Args:
        study: The study at one point.
        request: The experts.
        store: Store of the experts, which every actor must be able to reach.
        cache_folder: Folder of decoded images and embeddings.
        on_progress: Called with the progress of the set, about twice a second.
        display: Shows that Ray starts and ends, if it does not run yet.

    Raises:
        StoreError: when the store holds other experts under this key, or cannot be used.
        DivergedError: when an expert's training loss is not finite.
        RayvlddError: when no actor fits, or the process of an expert dies repeatedly.
    """
    total, missing = len(request.indexes), missing_of(request, store)
    clock = _Clock(total, study.experts.epochs, on_progress)
    made, command = 0, secrets.token_hex(8)
    while missing:
        with start_ray(None, None, display):
            groups = _groups(missing, request, resources_of_experts(study))
            jobs = [ExpertWork(replace(request, indexes=group), store, f"{command} {group[0]}") for group in groups]
            clock.begin(groups)
            made_here = sum(run_work(jobs, study, cache_folder, resources_of_experts(study), clock.report))
        made, missing = made + made_here, missing_of(request, store)
        if missing and not made_here:
            states = {index: store.holder(request.recipe, index) for index in missing}
            clock.wait({index: state.done for index, state in states.items() if state}, len(missing))
            time.sleep(_POLL_S)
    clock.begin([])
    clock.report(0, {})
    return made


def _groups(missing: list[int], request: ExpertRequest, resources: ResourceRequest) -> list[tuple[int, ...]]:
    """Divide experts into those of one pass: on GPUs as many as allowed, but no actor is left without work."""
    actors = max(1, resources.actors_that_fit(ray.cluster_resources()))
    size = min(request.training.in_one_pass, -(-len(missing) // actors)) if resources.num_gpus else 1
    return [tuple(missing[start : start + size]) for start in range(0, len(missing), size)]


@dataclass(frozen=True)
class ExpertWork:
    """Train and store experts in one pass, unless other commands are training them."""

    request: ExpertRequest
    """Request for these experts."""
    store: ExpertStore
    owner: str
    """Owner of the lease, so that a restarted job continues immediately after its actor died."""

    @property
    def title(self) -> str:
        """Name for messages."""
        indexes = self.request.indexes
        return f"expert {indexes[0]}" if len(indexes) == 1 else f"experts {', '.join(map(str, indexes))}"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> int:
        """Train the experts if the task still matches their recipe; return how many of them this job finished."""
        return make(task, self.request, self.request.indexes, self.store, LeaseHolder(self.owner), note)


class _Clock:
    """Converts the progress of the actor pool into the progress of the set, with an estimate of the time left."""

    def __init__(self, total: int, epochs: int, on_progress: OnExpertProgress | None) -> None:
        self._total, self._epochs = total, epochs
        self._on_progress = on_progress
        self._groups: list[tuple[int, ...]] = []
        self._first: tuple[float, int] | None = None
        """Time of the first observed progress, and the number of finished epochs at that time."""

    def begin(self, groups: list[tuple[int, ...]]) -> None:
        """Begin a round of jobs, one for each group of missing experts."""
        self._groups, self._first = groups, None

    def wait(self, elsewhere: dict[int, int], num_missing: int) -> None:
        """Report experts that other commands train."""
        if self._on_progress:
            self._on_progress(ExpertProgress(self._total - num_missing, self._total, elsewhere=elsewhere))

    def report(self, finished: int, running: dict[int, int]) -> None:
        """Report the number of finished jobs and the epoch of each running one."""
        if self._on_progress is None:
            return
        # The smallest groups, because it is not known which are finished: never more than there are.
        there = sum(sorted(map(len, self._groups))[:finished])
        experts = {index: epoch for number, epoch in running.items() for index in self._groups[number]}
        present = self._total - sum(map(len, self._groups))
        left = self._seconds_left(there * self._epochs + sum(experts.values()))
        self._on_progress(ExpertProgress(present + there, self._total, experts, seconds_left=left))

    def _seconds_left(self, done: int) -> float | None:
        now, total = time.monotonic(), sum(map(len, self._groups)) * self._epochs
        if done == total:
            return 0.0
        if self._first is None and done:
            self._first = (now, done)
        if self._first is None or done <= self._first[1]:
            return None
        started, before = self._first
        return (now - started) / (done - before) * (total - done)
