"""Store of expert sets in any storage: one folder per recipe, one memory-mappable file per expert.

``<key>/manifest.json`` records the origin of the set: the full recipe, the code version, number format and parameter
layout. ``<key>/expert_000.safetensors`` holds a trajectory. ``<key>/expert_000.json`` is its record, written last, with
the metrics by epoch, the stored epochs and the checksum of every tensor; an expert without a record is incomplete.
Checksums are verified before a tensor is first used. During the training of an expert, ``<key>/epochs/expert_000/``
holds its finished epochs and ``<key>/leases/`` its lease.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NoReturn, NotRequired, TypedDict, cast

from pydantic import JsonValue
from safetensors import SafetensorError
from torch import Tensor

import rayvldd
from rayvldd.errors import StoreError
from rayvldd.experts.movement import Movement
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.addresses import expert_storage
from rayvldd.experts.store.expert_records import FORMAT, REMAKE, ExpertRecords
from rayvldd.experts.store.file_names import (
    data_file,
    epoch_file,
    epoch_of,
    epochs_folder,
    manifest_file,
    record_file,
    start_file,
)
from rayvldd.experts.store.records import SharedStart
from rayvldd.experts.training import ExpertState
from rayvldd.experts.trajectory import Trajectory
from rayvldd.experts.trajectory_file import (
    SHARED_START,
    CheckedTensors,
    StoredSnapshots,
    tensors_to_keep,
    write_tensors,
)
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.storage.json_files import json_text
from rayvldd.storage.saved_state import state_metadata, verified_state
from rayvldd.storage.tensor_files import save_tensors
from rayvldd.storage.tensor_source import DamagedFileError, checksum
from rayvldd.workspace import Workspace


@dataclass(frozen=True)
class MadeExpert:
    """A finished expert with the data for its record."""

    trajectory: Trajectory
    metrics: list[dict[str, float]]
    """By epoch: ``epoch, train_loss, val_mean_recall, seconds``; empty if unavailable."""
    image_layout: ParameterLayout
    """Names and shapes in the flat vector of the image side."""
    text_layout: ParameterLayout
    """Names and shapes in the flat vector of the text side."""
    origin: str = ""
    """Files it was imported from; empty if it was trained by this package."""


class _EpochContent(TypedDict):
    """Numbers of a stored epoch, beside its tensors."""

    metrics: list[dict[str, float]]
    random_state: dict[str, JsonValue]
    movements: NotRequired[list[tuple[list[float], list[float]]]]
    """Missing if an earlier release wrote the file."""


class ExpertStore(ExpertRecords):
    """Expert sets by recipe, used by many processes and hosts at the same time.

    A store is pickled and sent to actors and trials. Experts are written atomically.
    """

    # --- finished experts ---

    def save(self, recipe: ExpertRecipe, index: int, expert: MadeExpert) -> None:
        """Store one expert, unless a complete one with at least these epochs exists.

        Raises:
            StoreError: when it cannot be written, or the storage holds experts of another recipe under this key.
        """
        self.check_manifest(recipe)
        before = self.record(recipe, index)
        if before and set(expert.trajectory.epochs) <= set(before["epochs"]):
            return
        self._write_manifest(recipe, expert)
        own, image_start = tensors_to_keep(expert.trajectory, recipe.storage)
        metadata = {"recipe": recipe.key, "index": str(index), "rayvldd_version": rayvldd.__version__}
        record = {
            **metadata,
            "index": index,
            "epochs": expert.trajectory.epochs,
            "storage": recipe.storage,
            "seconds": sum(epoch.get("seconds", 0.0) for epoch in expert.metrics),
            "metrics": expert.metrics,
            "movements": expert.trajectory.known_movements,
            **({"origin": expert.origin} if expert.origin else {}),
            "start": self._keep_start(recipe, image_start, metadata) if image_start is not None else None,
        }
        name = data_file(recipe.key, index)
        # When an expert is replaced by one with more epochs, its record is deleted first: otherwise readers would
        # compare the old checksums with the new file until the new record is written.
        if before:
            self.storage.delete(record_file(recipe.key, index))
        with self.storage.new_file(name) as path:
            checksums = write_tensors(path, own, metadata)
            size = path.stat().st_size
        self.storage.write(record_file(recipe.key, index), json_text({**record, "bytes": size, "checksums": checksums}))
        self.drop_epochs(recipe, index)

    def load(self, recipe: ExpertRecipe, index: int) -> Trajectory:
        """Open one expert; its tensors are read and verified on first use.

        Raises:
            StoreError: when it is incomplete or belongs to another recipe. The trajectory raises it later when a tensor
                is damaged; the expert then counts as missing.
        """
        self.check_manifest(recipe)
        record = self.record(recipe, index)
        if record is None:
            raise StoreError(
                f"{self.uri}: {data_file(recipe.key, index)}: expert {index} is not there or not complete",
                next_command=REMAKE,
            )
        own = self._opened(recipe, index, data_file(recipe.key, index), record["checksums"])
        start = record["start"] and self._opened(recipe, index, record["start"]["name"], record["start"]["checksums"])
        movements = [Movement(tuple(image), tuple(text)) for image, text in record.get("movements", [])]
        return Trajectory(StoredSnapshots(own, start or None, record["epochs"]), movements)

    # --- experts in training ---

    def keep_epoch(self, recipe: ExpertRecipe, index: int, state: ExpertState, keep: Collection[int]) -> None:
        """Store an expert in training after an epoch; the previous epoch is deleted unless it is in ``keep``.

        Raises:
            StoreError: when it cannot be written.
        """
        self.check_manifest(recipe, without_records=True)
        names = {"image": state.parameters.image, "text": state.parameters.text}
        content = {"metrics": state.metrics, "random_state": state.random_state, "movements": state.movements}
        with self.storage.new_file(epoch_file(recipe.key, index, state.epoch)) as path:
            save_tensors(path, names, state_metadata(names, content))
        if state.epoch - 1 not in keep:
            self.storage.delete(epoch_file(recipe.key, index, state.epoch - 1))

    def kept_epochs(self, recipe: ExpertRecipe, index: int) -> list[ExpertState]:
        """Return the stored epochs of an expert in training, sorted; damaged ones are skipped."""
        names = self.storage.names(epochs_folder(recipe.key, index))
        states = [self._state(name) for name in names]
        return sorted((state for state in states if state), key=lambda state: state.epoch)

    def _state(self, name: str) -> ExpertState | None:
        self.storage.forget_local_copy(name)
        try:
            source = self.storage.open_tensors(name)
            # Cloned, because the file is deleted later and training must not depend on its mapping.
            parameters = Parameters(source.tensor("image").clone(), source.tensor("text").clone())
            content = cast(_EpochContent, verified_state(parameters._asdict(), source.metadata))
            movements = tuple(Movement(*map(tuple, each)) for each in content.get("movements", []))
            return ExpertState(epoch_of(name), parameters, content["metrics"], content["random_state"], movements)
        except (DamagedFileError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def _write_manifest(self, recipe: ExpertRecipe, expert: MadeExpert) -> None:
        manifest = {
            "format": FORMAT,
            "rayvldd_version": rayvldd.__version__,
            "key": recipe.key,
            "storage": recipe.storage,
            "layout": {"image": _layout(expert.image_layout), "text": _layout(expert.text_layout)},
            "recipe": recipe.settings,
        }
        self.storage.swap(manifest_file(recipe.key), None, json_text(manifest))

    def _keep_start(self, recipe: ExpertRecipe, start: Tensor, metadata: Mapping[str, str]) -> SharedStart:
        """Store the image side of an initial state by content, once for all experts that share it."""
        digest = checksum(start)
        name = start_file(recipe.key, digest)
        if self.storage.size(name) is None:
            with self.storage.new_file(name) as path:
                write_tensors(path, {SHARED_START: start}, {**metadata, "index": "shared"})
        return {"name": name, "checksums": {SHARED_START: digest}}

    def _opened(self, recipe: ExpertRecipe, index: int, name: str, checksums: Mapping[str, str]) -> CheckedTensors:
        def refuse(why: str) -> NoReturn:
            self._refuse(recipe, index, name, why)

        return CheckedTensors(lambda: self.storage.open_tensors(name), checksums, refuse)

    def _refuse(self, recipe: ExpertRecipe, index: int, name: str, why: str) -> NoReturn:
        """Mark a damaged expert as missing, so that the next command trains it again, and raise the error.

        If only the local copy of this machine is damaged, the copy is deleted and the expert stays.
        """
        if self.storage.forget_local_copy(name):
            raise StoreError(
                f"{self.uri}: {name}: the copy on this machine is damaged: {why}; it was dropped",
                next_command="the same command, which fetches it again",
            )
        self.storage.delete(record_file(recipe.key, index))
        if name != data_file(recipe.key, index):
            self.storage.delete(name)  # a shared initial state: experts that need it become incomplete
        raise StoreError(
            f"{self.uri}: {name}: damaged: {why}; it will not be used",
            next_command=f"{REMAKE} (makes this expert again)",
        )


def open_store(uri: str | None, workspace: Workspace) -> ExpertStore:
    """Return the expert store at an address without reading or writing anything.

    Args:
        uri: Address of the store; see :func:`rayvldd.experts.store.addresses.expert_storage`.
        workspace: Where copies of remote files are stored on this machine.

    Raises:
        InputError: when the address is invalid.
    """
    return ExpertStore(expert_storage(uri, workspace))


def _layout(layout: ParameterLayout) -> list[tuple[str, list[int]]]:
    return [(name, [*shape]) for name, shape in zip(layout.names, layout.shapes, strict=True)]
