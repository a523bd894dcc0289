"""Experts trained side by side by Ray actors, each kept in the store as soon as it is finished."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rayvldd.config.study import Study
from rayvldd.experts.get_or_make import ExpertRequest, make_one, missing_of
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.runtime.actor_pool import ResourceRequest, run_jobs
from rayvldd.runtime.cluster import start_ray
from rayvldd.storage.lease import LeaseHolder

_POLL_S = 0.5
"""Seconds between two looks at experts that another command makes."""


@dataclass(frozen=True)
class ExpertProgress:
    """How far an expert set is."""

    finished: int
    """Experts that are complete, with those that were there before."""
    total: int
    """Experts wanted."""
    running: dict[int, int] = field(default_factory=dict)
    """Number of an expert in training to its last finished epoch."""
    elsewhere: dict[int, int] = field(default_factory=dict)
    """The same for experts that another command trains, which is waited for."""
    seconds_left: float | None = None
    """An estimate from the epochs trained so far; None while there are none."""


OnFleetProgress = Callable[[ExpertProgress], None]


def make_experts(
    study: Study,
    wanted: ExpertRequest,
    store: ExpertStore,
    cache_folder: Path,
    on_progress: OnFleetProgress | None = None,
) -> int:
    """Train the experts of a set that the store does not have, and return how many of them were made here.

    An expert depends on its number and on nothing else of what happens here: not on the actor that trains it, nor on
    how often it was interrupted. Ctrl-C keeps every finished epoch, and the next call trains the rest. Experts that
    another command is training are waited for, and taken over where that command dies.

    Args:
        study: The study at one point.
        wanted: The experts.
        store: Where they are kept; it must be one that every actor can reach.
        cache_folder: Where decoded images and embeddings are kept.
        on_progress: Told how far the set is, about twice a second.

    Raises:
        StoreError: when the store holds other experts in this place, or cannot be used.
        DivergedError: when an expert's training loss is not finite.
        RayvlddError: when no actor fits, or the process of one expert dies again and again.
    """
    total, missing = len(wanted.indexes), missing_of(wanted, store)
    clock = _Clock(total, study.experts.epochs, on_progress)
    resources = study.resources
    share = ResourceRequest(
        resources.cpus_per_expert,
        resources.gpus_per_expert,
        "resources.cpus_per_expert",
        resources.custom_per_expert,
    )
    made, command = 0, secrets.token_hex(8)
    while missing:
        with start_ray(None, None):
            jobs = [ExpertJob(replace(wanted, indexes=(index,)), store, f"{command} {index}") for index in missing]
            clock.begin(missing)
            made_here = sum(run_jobs(jobs, study, cache_folder, share, clock.tell))
        made, missing = made + made_here, missing_of(wanted, store)
        if missing and not made_here:
            states = {index: store.holder(wanted.recipe, index) for index in missing}
            clock.wait({index: state.done for index, state in states.items() if state}, len(missing))
            time.sleep(_POLL_S)
    clock.begin([])
    clock.tell(0, {})
    return made


@dataclass(frozen=True)
class ExpertJob:
    """Train one expert and keep it, unless another command is at it."""

    wanted: ExpertRequest
    """The one expert."""
    store: ExpertStore
    owner: str
    """The lease's owner: an actor that takes the job up again continues at once what the dead one began."""

    @property
    def title(self) -> str:
        """What people call it."""
        return f"expert {self.wanted.indexes[0]}"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> bool:
        """Train the expert under the recipe of the task at hand and no other; whether it was made here."""
        (index,) = self.wanted.indexes
        return make_one(task, self.wanted, index, self.store, LeaseHolder(self.owner), note)


class _Clock:
    """Turns the crew's news into a set's progress, with an estimate of the time left."""

    def __init__(self, total: int, epochs: int, on_progress: OnFleetProgress | None) -> None:
        self._total, self._epochs = total, epochs
        self._on_progress = on_progress
        self._missing: list[int] = []
        self._first: tuple[float, int] | None = None
        """When the first epoch was seen to be finished, and how many there were by then."""

    def begin(self, missing: list[int]) -> None:
        """A round of jobs, one for each missing expert, begins."""
        self._missing, self._first = missing, None

    def wait(self, elsewhere: dict[int, int], num_missing: int) -> None:
        """Tell of experts that other commands make."""
        if self._on_progress:
            self._on_progress(ExpertProgress(self._total - num_missing, self._total, elsewhere=elsewhere))

    def tell(self, finished: int, running: dict[int, int]) -> None:
        """Pass on what the crew tells: the number of finished jobs, and each running one's epoch."""
        if self._on_progress is None:
            return
        done = finished * self._epochs + sum(running.values())
        experts = {self._missing[number]: epoch for number, epoch in running.items()}
        present = self._total - len(self._missing)
        self._on_progress(
            ExpertProgress(present + finished, self._total, experts, seconds_left=self._seconds_left(done))
        )

    def _seconds_left(self, done: int) -> float | None:
        now, wanted = time.monotonic(), len(self._missing) * self._epochs
        if done == wanted:
            return 0.0
        if self._first is None and done:
            self._first = (now, done)
        if self._first is None or done <= self._first[1]:
            return None
        started, before = self._first
        return (now - started) / (done - before) * (wanted - done)
