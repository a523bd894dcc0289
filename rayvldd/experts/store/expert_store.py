"""Store of expert sets in any storage: one folder per recipe, one memory-mappable file per expert.

``<key>/manifest.json`` records the origin of the set: the full recipe, the code version, number format and parameter
layout. ``<key>/expert_000.safetensors`` holds a trajectory. ``<key>/expert_000.json`` is its record, written last, with
the metrics by epoch, the stored epochs and the checksum of every tensor; an expert without a record is incomplete.
Checksums are verified before a tensor is first used. During the training of an expert, ``<key>/epochs/expert_000/``
holds its finished epochs and ``<key>/leases/`` its lease.
"""

import json
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
from rayvldd.experts.store.file_names import (
    data_file,
    epoch_file,
    epoch_of,
    epochs_folder,
    index_of,
    is_record,
    lease_file,
    manifest_file,
    record_file,
    start_file,
)
from rayvldd.experts.store.records import ExpertRecord, SetManifest, SharedStart, record_of
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
from rayvldd.storage.json_files import json_text, parsed
from rayvldd.storage.lease import Lease, LeaseHolder, LeaseState, state_of
from rayvldd.storage.saved_state import state_metadata, verified_state
from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_files import DamagedFileError, checksum, save_tensors

FORMAT = 2
"""Format version of a set; sets of other versions are refused."""

_REMAKE = "rayvldd experts STUDY.yaml"


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


class ExpertStore:
    """Expert sets by recipe, used by many processes and hosts at the same time.

    A store is pickled and sent to actors and trials. Experts are written atomically.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def uri(self) -> str:
        """Address, as users write it."""
        return self.storage.uri

    # --- finished experts ---

    def finished(self, recipe: ExpertRecipe, epochs: Collection[int] = ()) -> list[int]:
        """Return the indexes of the complete experts of a set, sorted.

        Args:
            recipe: The set.
            epochs: Return only experts that have all of these epochs.

        Raises:
            StoreError: when the set under this key belongs to another recipe or cannot be read.
        """
        self._check_manifest(recipe)
        present = set(self.storage.names(recipe.key))
        indexes = sorted(index_of(name) for name in present if is_record(name))
        there = [index for index in indexes if data_file(recipe.key, index) in present]
        return [index for index in there if self.has(recipe, index, epochs)]

    def has(self, recipe: ExpertRecipe, index: int, epochs: Collection[int] = ()) -> bool:
        """Whether an expert is complete and has all of the given epochs."""
        record = self.record(recipe, index)
        return record is not None and set(epochs) <= set(record["epochs"])

    def save(self, recipe: ExpertRecipe, index: int, expert: MadeExpert) -> None:
        """Store one expert, unless a complete one with at least these epochs exists.

        Raises:
            StoreError: when it cannot be written, or the storage holds experts of another recipe under this key.
        """
        self._check_manifest(recipe)
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
        self._check_manifest(recipe)
        record = self.record(recipe, index)
        if record is None:
            raise StoreError(
                f"{self.uri}: {data_file(recipe.key, index)}: expert {index} is not there or not complete",
                next_command=_REMAKE,
            )
        own = self._opened(recipe, index, data_file(recipe.key, index), record["checksums"])
        start = record["start"] and self._opened(recipe, index, record["start"]["name"], record["start"]["checksums"])
        movements = [Movement(tuple(image), tuple(text)) for image, text in record.get("movements", [])]
        return Trajectory(StoredSnapshots(own, start or None, record["epochs"]), movements)

    def record(self, recipe: ExpertRecipe, index: int) -> ExpertRecord | None:
        """Return the record of an expert; None unless it is complete and its file has the recorded size."""
        record = record_of(parsed(self.storage.read(record_file(recipe.key, index))), recipe.key)
        if record is None:
            return None
        if record["start"] and self.storage.size(record["start"]["name"]) is None:
            return None
        return record if self.storage.size(data_file(recipe.key, index)) == record.get("bytes") else None

    def metrics(self, recipe: ExpertRecipe, index: int) -> list[dict[str, float]]:
        """Return the metrics by epoch of an expert; empty unless it is complete."""
        record = self.record(recipe, index)
        return record["metrics"] if record else []

    # --- experts in training ---

    def acquire(self, recipe: ExpertRecipe, index: int, lease_holder: LeaseHolder) -> Lease | None:
        """Acquire the lease for training an expert; None if another process holds it."""
        return lease_holder.acquire(self.storage, lease_file(recipe.key, index))

    def leased(self, recipe: ExpertRecipe) -> list[int]:
        """Return the sorted indexes of the experts with a lease."""
        return sorted(index_of(name) for name in self.storage.names(f"{recipe.key}/leases"))

    def holder(self, recipe: ExpertRecipe, index: int) -> LeaseState | None:
        """Return the lease state of an expert in training, with its progress; None if it has no lease."""
        return state_of(self.storage, lease_file(recipe.key, index))

    def keep_epoch(self, recipe: ExpertRecipe, index: int, state: ExpertState, keep: Collection[int]) -> None:
        """Store an expert in training after an epoch; the previous epoch is deleted unless it is in ``keep``.

        Raises:
            StoreError: when it cannot be written.
        """
        self._check_manifest(recipe, without_records=True)
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

    def drop_epochs(self, recipe: ExpertRecipe, index: int) -> None:
        """Delete the stored epochs of an expert in training."""
        for name in self.storage.names(epochs_folder(recipe.key, index)):
            self.storage.delete(name)

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

    # --- content of a set

    def sets(self) -> list[tuple[str, SetManifest]]:
        """Return key and manifest of every set with a readable manifest."""
        keys = sorted({name.partition("/")[0] for name in self.storage.names() if "/" in name})
        manifests = [(key, parsed(self.storage.read(manifest_file(key)))) for key in keys]
        return [
            (key, cast(SetManifest, manifest))
            for key, manifest in manifests
            if manifest and isinstance(manifest.get("recipe"), dict)
        ]

    def indexes(self, key: str) -> list[int]:
        """Return the sorted indexes of the experts with a record under a key."""
        return sorted(index_of(name) for name in self.storage.names(key) if is_record(name))

    def _check_manifest(self, recipe: ExpertRecipe, *, without_records: bool = False) -> None:
        """Refuse a set that was made for another recipe.

        Records without a manifest are an error as well. ``without_records`` skips this check, which lists all files.
        """
        content = self.storage.read(manifest_file(recipe.key))
        if content is None and (without_records or not any(map(is_record, self.storage.names(recipe.key)))):
            return
        manifest = parsed(content)
        where = f"{self.uri}: {manifest_file(recipe.key)}"
        if manifest is None or "recipe" not in manifest or "format" not in manifest:
            raise _not_reused(where, "not readable, so what made these experts is unknown")
        version = manifest["format"]
        if isinstance(version, int) and version > FORMAT:
            raise StoreError(
                f"{where}: has format {version}, which a newer rayvldd wrote "
                f"({manifest.get('rayvldd_version', 'of unknown version')}); allowed: up to {FORMAT}, which this "
                f"rayvldd {rayvldd.__version__} writes",
                next_command="install that version, or the same command with --store ANOTHER",
            )
        if version != FORMAT:
            raise _not_reused(where, f"has format {version!r}; allowed: {FORMAT}")
        differences = _differences(manifest["recipe"], json.loads(json.dumps(recipe.settings)))
        if differences:
            raise _not_reused(where, "made for other settings: " + "; ".join(differences))

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
            next_command=f"{_REMAKE} (makes this expert again)",
        )


def _layout(layout: ParameterLayout) -> list[tuple[str, list[int]]]:
    return [(name, [*shape]) for name, shape in zip(layout.names, layout.shapes, strict=True)]


def _not_reused(where: str, why: str) -> StoreError:
    return StoreError(f"{where}: {why}", next_command=f"move that set away, then: {_REMAKE}")


def _differences(stored: object, requested: object, key: str = "") -> list[str]:
    """List every setting in which two recipes differ, with both values."""
    if isinstance(stored, dict) and isinstance(requested, dict):
        names = sorted({*stored, *requested})
        return [
            difference
            for name in names
            for difference in _differences(stored.get(name), requested.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if stored == requested else [f"{key or 'recipe'} is {stored!r} there, {requested!r} here"]
