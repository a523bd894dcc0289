"""What is in a store of experts, and whether it is what was written: for every storage alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from rayvldd.errors import Fault, InputError, did_you_mean
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_store import FORMAT, ExpertStore
from rayvldd.experts.store.file_names import (
    by_key,
    data_file,
    epoch_of,
    index_of,
    is_epoch,
    is_lease,
    is_record,
    lease_file,
    manifest_file,
    record_file,
)
from rayvldd.experts.trajectory_file import checksum
from rayvldd.storage.json_files import parsed
from rayvldd.storage.lease import LeaseState, is_dead_here, state_of
from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_files import DamagedFileError


@dataclass(frozen=True)
class ExpertInTraining:
    """An expert of which there are epochs or a lease, and no whole yet."""

    index: int
    epoch: int
    """The last finished one that is known of."""
    holder: LeaseState | None
    """Who trains it; None where nobody does, as far as can be seen at once."""


@dataclass(frozen=True)
class SetSummary:
    """What a store holds under one key."""

    key: str
    manifest: dict[str, Any] | None
    """None if there is none, as before the first expert is finished, or none that can be read."""
    fault: str
    """Why the set cannot be used; empty where it can."""
    records: dict[int, dict[str, Any]]
    """Of the complete experts, by index."""
    incomplete: list[int]
    """Experts with a record whose files are not there as recorded."""
    in_training: list[ExpertInTraining]
    num_bytes: int

    @property
    def recipe(self) -> ExpertRecipe:
        """What made it; empty where that is not known."""
        return ExpertRecipe((self.manifest or {}).get("recipe", {}))

    @property
    def is_unreadable(self) -> bool:
        """Whether experts are there and nothing says what made them."""
        return bool(self.fault) and self.manifest is None


def summaries(store: ExpertStore) -> list[SetSummary]:
    """All sets of a store, by key.

    Raises:
        StoreError: when the storage cannot be read.
    """
    return [_summary(store, key, names) for key, names in by_key(store.storage.names()).items()]


def summary_of(store: ExpertStore, key: str) -> SetSummary:
    """One set.

    Raises:
        InputError: when there is no such key.
        StoreError: when the storage cannot be read.
    """
    check_keys(store, [key])
    return _summary(store, key, by_key(store.storage.names(key))[key])


def check_keys(store: ExpertStore, keys: list[str] | tuple[str, ...]) -> None:
    """Refuse keys that the store has no set under, all at once.

    Raises:
        InputError: with the nearest key for each.
    """
    known = list(by_key(store.storage.names()))
    faults = [
        Fault("KEY", f"{store.uri} has no set {key!r}{did_you_mean(key, known)}", _known(known))
        for key in keys
        if key not in known
    ]
    if faults:
        raise InputError(faults, next_command=f"rayvldd experts list --store {store.uri}")


def _known(keys: list[str]) -> str:
    if not keys:
        return "none, the store is empty"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _summary(store: ExpertStore, key: str, names: list[str]) -> SetSummary:
    indexes = sorted(index_of(name) for name in names if is_record(name))
    manifest = parsed(store.storage.read(manifest_file(key))) if manifest_file(key) in names else None
    if manifest is not None and not isinstance(manifest.get("recipe"), dict):
        manifest = None
    fault = _fault_of_manifest(key, manifest) if indexes or manifest_file(key) in names else ""
    records: dict[int, dict[str, Any]] = {}
    if not fault and manifest:
        found = {index: store.record(ExpertRecipe(manifest["recipe"]), index) for index in indexes}
        records = {index: record for index, record in found.items() if record}
    sizes = [store.storage.size(name) or 0 for name in names if name.endswith(".safetensors")]
    incomplete = [index for index in indexes if index not in records] if not fault else []
    in_training = list(_in_training(store.storage, key, names))
    return SetSummary(key, manifest, fault, records, incomplete, in_training, sum(sizes))


def _fault_of_manifest(key: str, manifest: dict[str, Any] | None) -> str:
    if manifest is None:
        return "its manifest is missing or cannot be read, so what made these experts is unknown"
    if manifest.get("format") != FORMAT:
        by = manifest.get("rayvldd_version", "of unknown version")
        return f"its format is {manifest.get('format')!r}, of rayvldd {by}; this one reads {FORMAT}"
    made_for = ExpertRecipe(manifest["recipe"]).key
    return f"it was made as {made_for} and moved here" if made_for != key else ""


def _in_training(storage: Storage, key: str, names: list[str]) -> Iterator[ExpertInTraining]:
    epochs: dict[int, int] = {index_of(name): 0 for name in names if is_lease(name)}
    for name in names:
        if is_epoch(name):
            epochs[index_of(name)] = max(epoch_of(name), epochs.get(index_of(name), 0))
    for index, epoch in sorted(epochs.items()):
        holder = state_of(storage, lease_file(key, index))
        if holder and is_dead_here(holder):
            holder = None
        yield ExpertInTraining(index, max(epoch, holder.done if holder else 0), holder)


# --- whether it is what was written --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written."""

    name: str
    """Its name in the storage."""
    why: str
    records: tuple[str, ...]
    """Records of the experts that cannot be used because of it."""


OnFile = Callable[[int, int, str], None]
"""Told (files done, files in all, the one at hand)."""


def verify(store: ExpertStore, keys: list[str] | tuple[str, ...] = (), on_file: OnFile | None = None) -> list[Damage]:
    """Read every tensor of the finished experts and compare it with its checksum.

    A storage that keeps local copies is read anew: the copies on this machine are dropped.

    Args:
        store: The store.
        keys: Sets to look at; default: all of them.
        on_file: Told of every file before it is read.

    Raises:
        InputError: when there is no set of one of the keys.
        StoreError: when the storage cannot be read.
    """
    check_keys(store, keys)
    chosen = {key: names for key, names in by_key(store.storage.names()).items() if not keys or key in keys}
    files: dict[str, dict[str, Any]] = {}
    damages: list[Damage] = []
    for key, names in chosen.items():
        summary = _summary(store, key, names)
        if summary.is_unreadable:
            damages.append(Damage(manifest_file(key), summary.fault, ()))
        elif not summary.fault:
            for index in sorted({*summary.records, *summary.incomplete}):
                damages += _gather(store.storage, key, index, files)
    for done, (name, expected) in enumerate(files.items()):
        if on_file:
            on_file(done, len(files), name)
        why = fault_of_tensors(store.storage, name, expected["checksums"], expected.get("bytes"))
        if why and any(store.storage.size(record) is not None for record in expected["records"]):
            damages.append(Damage(name, why, tuple(expected["records"])))
    return damages


def _gather(storage: Storage, key: str, index: int, files: dict[str, dict[str, Any]]) -> list[Damage]:
    """Add the files of an expert to those that are to be read; what is wrong with its record is told at once."""
    name = record_file(key, index)
    content = storage.read(name)
    if content is None:  # its expert is being made again with more epochs
        return []
    record = parsed(content)
    if record is None or record.get("recipe") != key or not {"checksums", "bytes", "start"} <= set(record):
        return [Damage(name, "cannot be read, or is another set's", (name,))]
    files[data_file(key, index)] = {"checksums": record["checksums"], "bytes": record["bytes"], "records": [name]}
    if record["start"]:
        start = files.setdefault(record["start"]["name"], {"checksums": {}, "records": []})
        start["checksums"] |= record["start"]["checksums"]
        start["records"].append(name)
    return []


def fault_of_tensors(storage: Storage, name: str, checksums: Mapping[str, str], num_bytes: int | None = None) -> str:
    """Say what is wrong with a file of tensors, all of which are read; nothing where it is what was written."""
    size = storage.size(name)
    if size is None:
        return "is not there"
    if num_bytes is not None and size != num_bytes:
        return f"has {size} bytes, {num_bytes} were written"
    storage.forget_local_copy(name)
    try:
        source = storage.open_tensors(name)
        if set(source.names) != set(checksums):
            return f"holds {', '.join(sorted(source.names))}; {', '.join(sorted(checksums))} were written"
        wrong = [tensor for tensor in checksums if checksum(source.tensor(tensor)) != checksums[tensor]]
    except DamagedFileError as error:
        return str(error)
    except SafetensorError as error:
        return f"cannot be read ({error})"
    return f"the checksum of {', '.join(wrong)} is not the recorded one" if wrong else ""


def drop(store: ExpertStore, damages: list[Damage]) -> int:
    """Make damaged experts count as missing, so that the next command makes them again; returns how many there are."""
    records = {record for damage in damages for record in damage.records}
    for record in sorted(records):
        store.storage.delete(record)
    for damage in damages:
        if damage.records and damage.name not in records:
            store.storage.delete(damage.name)
    return len(records)
