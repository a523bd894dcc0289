"""The records of a store of experts, without their tensors; see :mod:`rayvldd.experts.store.expert_store`.

This module does not import torch, which takes seconds: plans and lists of sets read records alone.
"""

import json
from collections.abc import Collection
from typing import cast

import rayvldd
from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.file_names import (
    data_file,
    epochs_folder,
    index_of,
    is_record,
    lease_file,
    manifest_file,
    record_file,
)
from rayvldd.experts.store.records import ExpertRecord, SetManifest, record_of
from rayvldd.storage.json_files import parsed
from rayvldd.storage.lease import Lease, LeaseHolder, LeaseState, state_of
from rayvldd.storage.storage import Storage

FORMAT = 2
"""Format version of a set; sets of other versions are refused."""

REMAKE = "rayvldd experts STUDY.yaml"
"""The command that makes missing experts."""


class ExpertRecords:
    """Manifests, records and leases of expert sets, in any storage."""

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
        self.check_manifest(recipe)
        present = set(self.storage.names(recipe.key))
        indexes = sorted(index_of(name) for name in present if is_record(name))
        there = [index for index in indexes if data_file(recipe.key, index) in present]
        return [index for index in there if self.has(recipe, index, epochs)]

    def has(self, recipe: ExpertRecipe, index: int, epochs: Collection[int] = ()) -> bool:
        """Whether an expert is complete and has all of the given epochs."""
        record = self.record(recipe, index)
        return record is not None and set(epochs) <= set(record["epochs"])

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

    def drop_epochs(self, recipe: ExpertRecipe, index: int) -> None:
        """Delete the stored epochs of an expert in training."""
        for name in self.storage.names(epochs_folder(recipe.key, index)):
            self.storage.delete(name)

    # --- content of a set ---

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

    def check_manifest(self, recipe: ExpertRecipe, *, without_records: bool = False) -> None:
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


def _not_reused(where: str, why: str) -> StoreError:
    return StoreError(f"{where}: {why}", next_command=f"move that set away, then: {REMAKE}")


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
