"""Load the experts of a recipe from the store, and train the missing ones.

A process that needs an expert acquires its lease and trains the expert itself, so one CPU is enough and only requested
experts are trained. If another process holds the lease, it tries the next expert, or waits and takes over when the
holder dies. Every epoch is stored, so a crash costs at most one epoch.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe, ExpertTraining
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.experts.training import ExpertState, train_epochs_together
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.records.json_values import text_at
from rayvldd.storage.lease import Lease, LeaseHolder

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
        at_once = 1 if task.device.type == "cpu" else request.training.in_one_pass
        groups = [missing[start : start + at_once] for start in range(0, len(missing), at_once)]
        if not any(make(task, request, group, store, lease_holder) for group in groups):
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


def make(
    task: RetrievalTask,
    request: ExpertRequest,
    indexes: Sequence[int],
    store: ExpertStore,
    lease_holder: LeaseHolder,
    note: Callable[[int], None] | None = None,
) -> int:
    """Train experts unless other processes do; return how many of them this process finished.

    Several are trained in one pass, as far as they begin at the same epoch.

    Args:
        task: Model and data.
        request: The set, and the epochs to keep.
        indexes: Numbers of the experts.
        store: Store for the experts.
        lease_holder: Holder of the leases during training.
        note: Called with every finished epoch.

    Raises:
        StoreError: when data or models no longer match the recipe, or the store cannot be written.
        DivergedError: when a training loss is not finite.
    """
    by_epoch: dict[int, list[_Unfinished]] = {}
    with ExitStack() as leases:
        for index in indexes:
            lease = store.acquire(request.recipe, index, lease_holder)
            if lease is None:
                continue
            leases.enter_context(lease)
            if store.has(request.recipe, index, request.epochs):  # finished by another process before the lease
                continue
            _refuse_changed(task, request.recipe, index)
            expert = _Unfinished(request, index, store, lease)
            by_epoch.setdefault(-1 if expert.last is None else expert.last.epoch, []).append(expert)
        for experts in by_epoch.values():
            _train(task, request.training, experts, note)
    return sum(map(len, by_epoch.values()))


class _Unfinished:
    """An expert in training, with the epochs that the store keeps of it."""

    def __init__(self, request: ExpertRequest, index: int, store: ExpertStore, lease: Lease) -> None:
        kept = _without_gaps(store.kept_epochs(request.recipe, index), request.epochs)
        self.index = index
        self.last = kept[-1] if kept else None
        self._request, self._store, self._lease = request, store, lease
        self._snapshots = {state.epoch: state.parameters for state in kept if state.epoch in request.epochs}

    def add(self, state: ExpertState) -> None:
        """Store the expert after an epoch; the last epoch is stored with the finished expert."""
        self.last = state
        if state.epoch < self._request.training.settings.epochs:
            self._store.keep_epoch(self._request.recipe, self.index, state, self._request.epochs)
        if state.epoch in self._request.epochs:
            self._snapshots[state.epoch] = state.parameters
        self._lease.report_progress(state.epoch)

    def finish(self, model: RetrievalModel) -> None:
        """Store the finished expert."""
        assert self.last is not None  # the initial state is one
        trajectory = Trajectory(self._snapshots, self.last.movements)
        made = MadeExpert(trajectory, self.last.metrics, model.image_layout, model.text_layout)
        self._store.save(self._request.recipe, self.index, made)


def _train(
    task: RetrievalTask, training: ExpertTraining, experts: list[_Unfinished], note: Callable[[int], None] | None
) -> None:
    """Train experts that begin at the same epoch to the end."""
    after = [expert.last for expert in experts if expert.last is not None] or None
    for states in train_epochs_together(task, training, [expert.index for expert in experts], after):
        for expert, state in zip(experts, states, strict=True):
            expert.add(state)
        if note:
            note(states[0].epoch)
    for expert in experts:
        expert.finish(task.model)


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
