"""Load the experts of a recipe from the store, and train the missing ones.

A process that needs an expert acquires its lease and trains the expert itself, so one CPU is enough and only requested
experts are trained. If another process holds the lease, it tries the next expert, or waits and takes over when the
holder dies. Every epoch is stored, so a crash costs at most one epoch.
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
from rayvldd.records.json_values import text_at
from rayvldd.storage.lease import LeaseHolder

_POLL_S = 0.5
"""Seconds between two checks of experts that other processes train."""


@dataclass(frozen=True)
class ExpertRequest:
    """Request for experts of one set."""

    recipe: ExpertRecipe
    training: ExpertTraining
    indexes: tuple[int, ...]
    epochs: frozenset[int]
    """Epochs that each expert must provide."""


def get_or_make(
    task: RetrievalTask,
    request: ExpertRequest,
    store: ExpertStore,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Trajectory]:
    """Return the requested trajectories; missing experts are trained in this process unless another one trains them.

    Args:
        task: Model and data at a point of the set.
        request: The experts, in the order in which they are returned.
        store: Store that is read and written.
        on_progress: Called repeatedly with (experts available, experts requested).

    Raises:
        StoreError: when the store holds other experts under this key, cannot be used, or lacks experts of an imported
            set.
        DivergedError: when an expert's training loss is not finite.
    """
    lease_holder = LeaseHolder()
    while missing := missing_of(request, store):
        if on_progress:
            on_progress(len(request.indexes) - len(missing), len(request.indexes))
        if not any(make_one(task, request, index, store, lease_holder) for index in missing):
            time.sleep(_POLL_S)
    return [store.load(request.recipe, index) for index in request.indexes]


def missing_of(request: ExpertRequest, store: ExpertStore) -> list[int]:
    """Return the indexes of the requested experts that the store does not have.

    Raises:
        StoreError: when the store cannot be used, or when imported experts are missing, which cannot be trained.
    """
    present = set(store.finished(request.recipe, request.epochs))
    missing = [index for index in request.indexes if index not in present]
    imported = text_at(request.recipe.settings, "experts", "imported")
    if missing and imported:
        raise StoreError(
            f"{store.uri}: {request.recipe.key}: {len(missing)} of {len(request.indexes)} experts imported as "
            f"{imported} are missing or lack requested epochs; allowed: experts imported for this study",
            next_command=_next_after_import(missing, request),
        )
    return missing


def _next_after_import(missing: list[int], request: ExpertRequest) -> str:
    there = len(request.indexes) - len(missing)
    if there and missing == list(request.indexes[there:]):
        return f"the same command with --set experts.num_experts={there}"
    return (
        "rayvldd experts import STUDY.yaml --image-buffer img_replay_buffer_0.pt --text-buffer txt_replay_buffer_0.pt"
    )


def make_one(
    task: RetrievalTask,
    request: ExpertRequest,
    index: int,
    store: ExpertStore,
    lease_holder: LeaseHolder,
    note: Callable[[int], None] | None = None,
) -> bool:
    """Train one expert unless another process does; return whether this process finished it.

    Args:
        task: Model and data.
        request: The set, and the epochs to keep.
        index: Number of the expert.
        store: Store for the expert.
        lease_holder: Holder of the lease during training.
        note: Called with every finished epoch.

    Raises:
        StoreError: when data or models no longer match the recipe, or the store cannot be written.
        DivergedError: when the training loss is not finite.
    """
    recipe = request.recipe
    lease = store.acquire(recipe, index, lease_holder)
    if lease is None:
        return False
    with lease:
        if store.has(recipe, index, request.epochs):  # finished by another process before the lease was acquired
            return False
        _refuse_changed(task, recipe, index)
        kept = _without_gaps(store.kept_epochs(recipe, index), request.epochs)
        snapshots = {state.epoch: state.parameters for state in kept if state.epoch in request.epochs}
        metrics, movements = (kept[-1].metrics, kept[-1].movements) if kept else ([], ())
        for state in train_epochs(task, request.training, index, kept[-1] if kept else None):
            if state.epoch < request.training.settings.epochs:  # the last epoch is stored with the finished expert
                store.keep_epoch(recipe, index, state, request.epochs)
            if state.epoch in request.epochs:
                snapshots[state.epoch] = state.parameters
            metrics, movements = state.metrics, state.movements
            lease.report_progress(state.epoch)
            if note:
                note(state.epoch)
        layouts = task.model.image_layout, task.model.text_layout
        store.save(recipe, index, MadeExpert(Trajectory(snapshots, movements), metrics, *layouts))
    return True


def _without_gaps(kept: list[ExpertState], epochs: Collection[int]) -> list[ExpertState]:
    """Return the stored states up to the last one before which no required epoch is missing."""
    there = {state.epoch for state in kept}
    whole = [state for state in kept if {epoch for epoch in epochs if epoch <= state.epoch} <= there]
    return [state for state in kept if whole and state.epoch <= whole[-1].epoch]


def _refuse_changed(task: RetrievalTask, recipe: ExpertRecipe, index: int) -> None:
    made = ExpertRecipe({**recipe.settings, "fingerprints": {**task.fingerprints}})
    if made.key != recipe.key:
        raise StoreError(
            f"expert {index}: data or models have changed since the command began: its recipe is now "
            f"{made.key}, it was {recipe.key}",
            next_command="the same command again, once the files stay as they are",
        )
