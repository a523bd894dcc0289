"""Experts trained side by side by Ray actors, each kept in the store as soon as it is finished."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rayvldd.config.study import Study
from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe, expert_recipe
from rayvldd.experts.training import train_expert
from rayvldd.fleet.crew import Share, run_jobs
from rayvldd.fleet.runtime import start_ray
from rayvldd.models.problem import Problem
from rayvldd.stores.protocol import TrajectoryStore


@dataclass(frozen=True)
class FleetProgress:
    """How far an expert set is."""

    finished: int
    """Experts that are complete, with those that were there before."""
    total: int
    """Experts wanted."""
    running: dict[int, int] = field(default_factory=dict)
    """Number of an expert in training to its last finished epoch."""
    seconds_left: float | None = None
    """An estimate from the epochs trained so far; None while there are none."""


OnFleetProgress = Callable[[FleetProgress], None]


def make_experts(
    study: Study,
    recipe: ExpertRecipe,
    store: TrajectoryStore,
    cache_folder: Path,
    on_progress: OnFleetProgress | None = None,
) -> int:
    """Train the experts of a set that the store does not have, and return how many these were.

    An expert depends on its number and on nothing else of what happens here: not on the actor that trains it, nor on
    which others are there. Ctrl-C keeps every finished expert, and the next call trains the rest.

    Args:
        study: The study at one point; ``experts.num_experts`` says how many are wanted.
        recipe: What the experts at that point are.
        store: Where they are kept; it must be one that every actor can reach.
        cache_folder: Where decoded images and embeddings are kept.
        on_progress: Told how far the set is, about twice a second.

    Raises:
        StoreError: when the store holds other experts in this place, or cannot be written.
        DivergedError: when an expert's training loss is not finite.
        RayvlddError: when no actor fits, or the process of one expert dies again and again.
    """
    total, present = study.experts.num_experts, set(store.finished(recipe))
    missing = [index for index in range(total) if index not in present]
    clock = _Clock(total, missing, study.experts.epochs, on_progress)
    if missing:
        share = Share(study.resources.cpus_per_expert, study.resources.gpus_per_expert, "resources.cpus_per_expert")
        jobs = [ExpertJob(index, recipe, store) for index in missing]
        with start_ray(None, None):
            run_jobs(jobs, study, cache_folder, share, clock.tell)
    clock.tell(len(missing), {})
    return len(missing)


@dataclass(frozen=True)
class ExpertJob:
    """Train one expert and keep it."""

    index: int
    recipe: ExpertRecipe
    store: TrajectoryStore

    @property
    def title(self) -> str:
        """What people call it."""
        return f"expert {self.index}"

    def do(self, problem: Problem, note: Callable[[int], None]) -> None:
        """Train the expert and put it into the store, under the recipe of the problem at hand and no other."""
        made = expert_recipe(problem)
        if made.key != self.recipe.key:
            raise StoreError(
                f"expert {self.index}: data or models have changed since the command began: its recipe is now "
                f"{made.key}, it was {self.recipe.key}",
                next_command="the same command again, once the files stay as they are",
            )
        trajectory, metrics = train_expert(problem, self.index, lambda epoch, _: note(epoch))
        self.store.save(self.recipe, self.index, trajectory, metrics)


class _Clock:
    """Turns the crew's news into a set's progress, with an estimate of the time left."""

    def __init__(self, total: int, missing: list[int], epochs: int, on_progress: OnFleetProgress | None) -> None:
        self._total, self._missing, self._epochs = total, missing, epochs
        self._on_progress = on_progress
        self._first: tuple[float, int] | None = None
        """When the first epoch was seen to be finished, and how many there were by then."""

    def tell(self, finished: int, running: dict[int, int]) -> None:
        """Pass on what the crew tells: the number of finished jobs, and each running one's epoch."""
        if self._on_progress is None:
            return
        done = finished * self._epochs + sum(running.values())
        experts = {self._missing[number]: epoch for number, epoch in running.items()}
        present = self._total - len(self._missing)
        self._on_progress(FleetProgress(present + finished, self._total, experts, self._seconds_left(done)))

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
