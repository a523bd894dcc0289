"""Experts by what they are: those in the store are taken, the others made, each by one process of all that ask.

Whoever needs an expert leases it and trains it where it stands, so one CPU is enough and nothing is made that nobody
asked for; who finds it leased takes on another, or waits and takes over where the maker dies. Every epoch is kept, so
a death costs one epoch at most.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.experts.training import ExpertState, ExpertTraining, train_epochs
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.storage.lease import LeaseHolder

_POLL_S = 0.5
"""Seconds between two looks at what others make."""


@dataclass(frozen=True)
class ExpertRequest:
    """Experts of one set."""

    recipe: ExpertRecipe
    training: ExpertTraining
    indexes: tuple[int, ...]
    epochs: frozenset[int]
    """Epochs that each must keep."""


def get_or_make(
    task: RetrievalTask,
    wanted: ExpertRequest,
    store: ExpertStore,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Trajectory]:
    """Return trajectories of the store, after making in this process those that nobody else makes.

    Args:
        task: Model and data at a point of the set.
        wanted: Which experts; their order is the order of what is returned.
        store: Where they are, and are put.
        on_progress: Told the experts there and wanted, now and then.

    Raises:
        StoreError: when the store holds other experts in this place, cannot be used, or the set was imported and is
            not there.
        DivergedError: when an expert's training loss is not finite.
    """
    lease_holder = LeaseHolder()
    while missing := missing_of(wanted, store):
        if on_progress:
            on_progress(len(wanted.indexes) - len(missing), len(wanted.indexes))
        if not any(make_one(task, wanted, index, store, lease_holder) for index in missing):
            time.sleep(_POLL_S)
    return [store.load(wanted.recipe, index) for index in wanted.indexes]


def missing_of(wanted: ExpertRequest, store: ExpertStore) -> list[int]:
    """The wanted experts that the store does not have.

    Raises:
        StoreError: when the store cannot be used, or what is missing was imported and cannot be made.
    """
    present = set(store.finished(wanted.recipe, wanted.epochs))
    missing = [index for index in wanted.indexes if index not in present]
    imported = wanted.recipe.settings.get("experts", {}).get("imported")
    if missing and imported:
        raise StoreError(
            f"{store.uri}: {wanted.recipe.key}: {len(missing)} of {len(wanted.indexes)} experts imported as "
            f"{imported} are not there or do not keep the epochs asked for; allowed: what was imported for this study",
            next_command=_next_after_import(missing, wanted),
        )
    return missing


def _next_after_import(missing: list[int], wanted: ExpertRequest) -> str:
    there = len(wanted.indexes) - len(missing)
    if there and missing == list(wanted.indexes[there:]):
        return f"the same command with --set experts.num_experts={there}"
    return (
        "rayvldd experts import STUDY.yaml --image-buffer img_replay_buffer_0.pt --text-buffer txt_replay_buffer_0.pt"
    )


def make_one(
    task: RetrievalTask,
    wanted: ExpertRequest,
    index: int,
    store: ExpertStore,
    lease_holder: LeaseHolder,
    note: Callable[[int], None] | None = None,
) -> bool:
    """Make one expert unless another process is at it; return whether it is there now by this process's doing.

    Args:
        task: Model and data.
        wanted: The set, and the epochs to keep.
        index: Number of the expert.
        store: Where it is put.
        lease_holder: Who makes it.
        note: Told every finished epoch.

    Raises:
        StoreError: when data or models are no longer those of the recipe, or the store cannot be written.
        DivergedError: when the training loss is not finite.
    """
    recipe = wanted.recipe
    lease = store.acquire(recipe, index, lease_holder)
    if lease is None:
        return False
    with lease:
        if store.has(recipe, index, wanted.epochs):  # made between the look and the lease
            return False
        _refuse_changed(task, recipe, index)
        kept = _without_gaps(store.kept_epochs(recipe, index), wanted.epochs)
        snapshots = {state.epoch: state.parameters for state in kept if state.epoch in wanted.epochs}
        metrics = kept[-1].metrics if kept else []
        for state in train_epochs(task, wanted.training, index, kept[-1] if kept else None):
            if state.epoch < wanted.training.settings.epochs:  # the last one is saved with the whole at once
                store.keep_epoch(recipe, index, state, wanted.epochs)
            if state.epoch in wanted.epochs:
                snapshots[state.epoch] = state.parameters
            metrics = state.metrics
            lease.tell(state.epoch)
            if note:
                note(state.epoch)
        layouts = task.model.image_layout, task.model.text_layout
        store.save(recipe, index, MadeExpert(Trajectory(snapshots), metrics, *layouts))
    return True


def _without_gaps(kept: list[ExpertState], epochs: Collection[int]) -> list[ExpertState]:
    """The kept states up to the last one before which no epoch is missing that must be kept."""
    there = {state.epoch for state in kept}
    whole = [state for state in kept if {epoch for epoch in epochs if epoch <= state.epoch} <= there]
    return [state for state in kept if whole and state.epoch <= whole[-1].epoch]


def _refuse_changed(task: RetrievalTask, recipe: ExpertRecipe, index: int) -> None:
    made = ExpertRecipe({**recipe.settings, "fingerprints": task.fingerprints})
    if made.key != recipe.key:
        raise StoreError(
            f"expert {index}: data or models have changed since the command began: its recipe is now "
            f"{made.key}, it was {recipe.key}",
            next_command="the same command again, once the files stay as they are",
        )
