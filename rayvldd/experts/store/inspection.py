"""Summarise and verify the content of an expert store in any storage."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from safetensors import SafetensorError

from rayvldd.errors import Fault, InputError, did_you_mean
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_records import FORMAT, ExpertRecords
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
from rayvldd.experts.store.records import ExpertRecord, SetManifest, record_of
from rayvldd.records.form import Values
from rayvldd.storage.json_files import parsed
from rayvldd.storage.lease import LeaseState, is_dead_here, state_of
from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_source import DamagedFileError, checksum


@dataclass(frozen=True)
class ExpertInTraining:
    """An unfinished expert with stored epochs or a lease."""

    index: int
    epoch: int
    """Last finished epoch, as far as recorded."""
    holder: LeaseState | None
    """Lease of the process that trains it; None if there is none or its process has visibly ended."""


@dataclass(frozen=True)
class SetSummary:
    """Content of a store under one key."""

    key: str
    manifest: SetManifest | None
    """None if unreadable or missing, as before the first expert is finished."""
    fault: str
    """Reason why the set cannot be used; empty if it can."""
    records: dict[int, ExpertRecord]
    """Records of the complete experts by index."""
    incomplete: list[int]
    """Experts whose files are missing or differ from their record."""
    in_training: list[ExpertInTraining]
    num_bytes: int

    @property
    def recipe(self) -> ExpertRecipe:
        """Recipe of the set; empty if unknown."""
        return ExpertRecipe(self.manifest["recipe"] if self.manifest else {})

    @property
    def is_unreadable(self) -> bool:
        """Whether the set has experts but no readable manifest."""
        return bool(self.fault) and self.manifest is None


def summaries(store: ExpertRecords) -> list[SetSummary]:
    """Summarise all sets of a store, by key.

    Raises:
        StoreError: when the storage cannot be read.
    """
    return [_summary(store, key, names) for key, names in by_key(store.storage.names()).items()]


def summary_of(store: ExpertRecords, key: str) -> SetSummary:
    """Summarise one set.

    Raises:
        InputError: when the key does not exist.
        StoreError: when the storage cannot be read.
    """
    check_keys(store, [key])
    return _summary(store, key, by_key(store.storage.names(key))[key])


def check_keys(store: ExpertRecords, keys: list[str] | tuple[str, ...]) -> None:
    """Refuse keys that do not exist in the store.

    Raises:
        InputError: naming every missing key with the nearest existing one.
    """
    existing = list(by_key(store.storage.names()))
    faults = [
        Fault("KEY", f"{store.uri} has no set {key!r}{did_you_mean(key, existing)}", _listed(existing))
        for key in keys
        if key not in existing
    ]
    if faults:
        raise InputError(faults, next_command=f"rayvldd experts list --store {store.uri}")


def _listed(keys: list[str]) -> str:
    if not keys:
        return "none, the store is empty"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _summary(store: ExpertRecords, key: str, names: list[str]) -> SetSummary:
    indexes = sorted(index_of(name) for name in names if is_record(name))
    content = parsed(store.storage.read(manifest_file(key))) if manifest_file(key) in names else None
    is_manifest = content is not None and isinstance(content.get("recipe"), dict)
    manifest = cast(SetManifest, content) if is_manifest else None
    fault = _fault_of_manifest(key, manifest) if indexes or manifest_file(key) in names else ""
    records: dict[int, ExpertRecord] = {}
    if not fault and manifest:
        found = {index: store.record(ExpertRecipe(manifest["recipe"]), index) for index in indexes}
        records = {index: record for index, record in found.items() if record}
    sizes = [store.storage.size(name) or 0 for name in names if name.endswith(".safetensors")]
    incomplete = [index for index in indexes if index not in records] if not fault else []
    in_training = list(_in_training(store.storage, key, names))
    return SetSummary(key, manifest, fault, records, incomplete, in_training, sum(sizes))


def _fault_of_manifest(key: str, manifest: SetManifest | None) -> str:
    if manifest is None:
        return "its manifest is missing or cannot be read, so what made these experts is unknown"
    if manifest.get("format") != FORMAT:
        by = manifest.get("rayvldd_version", "of unknown version")
        return f"its format is {manifest.get('format')!r}, of rayvldd {by}; this one reads {FORMAT}"
    try:
        made_for = ExpertRecipe(manifest["recipe"]).key
    except ValueError:
        return "its recipe has a number that is not finite"
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


# --- verification --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """A file that differs from its record."""

    name: str
    """Name of the file in the storage."""
    why: str
    records: tuple[str, ...]
    """Records of the experts that cannot be used because of it."""


class Verified(Values):
    """Result of ``rayvldd experts verify``."""

    store: str
    files: int
    damaged: list[Damage]
    dropped_experts: int


@dataclass
class _ExpectedFile:
    """A file to verify, as the records of experts describe it."""

    checksums: dict[str, str]
    records: list[str]
    """Records that name the file."""
    num_bytes: int | None = None
    """None: not recorded."""


OnFile = Callable[[int, int, str], None]
"""Called with (files done, files in total, current file)."""


def verify(store: ExpertRecords, keys: list[str] | tuple[str, ...] = (), on_file: OnFile | None = None) -> list[Damage]:
    """Read every tensor of the finished experts and verify its checksum.

    Local copies on this machine are deleted first, so that the storage itself is read.

    Args:
        store: The store.
        keys: Sets to verify; default: all of them.
        on_file: Called before each file is read.

    Raises:
        InputError: when a key does not exist.
        StoreError: when the storage cannot be read.
    """
    check_keys(store, keys)
    chosen = {key: names for key, names in by_key(store.storage.names()).items() if not keys or key in keys}
    files: dict[str, _ExpectedFile] = {}
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
        why = fault_of_tensors(store.storage, name, expected.checksums, expected.num_bytes)
        if why and any(store.storage.size(record) is not None for record in expected.records):
            damages.append(Damage(name, why, tuple(expected.records)))
    return damages


def _gather(storage: Storage, key: str, index: int, files: dict[str, _ExpectedFile]) -> list[Damage]:
    """Add the files of an expert to the files to verify; return damage of its record."""
    name = record_file(key, index)
    content = storage.read(name)
    if content is None:  # the expert is being replaced by one with more epochs
        return []
    record = record_of(parsed(content), key)
    if record is None:
        return [Damage(name, "cannot be read, or is another set's", (name,))]
    files[data_file(key, index)] = _ExpectedFile(record["checksums"], [name], record["bytes"])
    if record["start"]:
        start = files.setdefault(record["start"]["name"], _ExpectedFile({}, []))
        start.checksums |= record["start"]["checksums"]
        start.records.append(name)
    return []


def fault_of_tensors(storage: Storage, name: str, checksums: Mapping[str, str], num_bytes: int | None = None) -> str:
    """Read a tensor file and describe its first mismatch with the record; empty if it is intact.

    Args:
        storage: Storage of the file.
        name: Name of the file.
        checksums: Recorded checksum of every tensor, by name.
        num_bytes: Recorded size of the file in bytes; None: not recorded.
    """
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


def drop(store: ExpertRecords, damages: list[Damage]) -> int:
    """Mark damaged experts as missing, so that the next command trains them again; return their number."""
    records = {record for damage in damages for record in damage.records}
    for record in sorted(records):
        store.storage.delete(record)
    for damage in damages:
        if damage.records and damage.name not in records:
            store.storage.delete(damage.name)
    return len(records)
