"""Copy expert sets between stores, tensors unchanged and each expert atomically."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rayvldd.errors import Fault, InputError, StoreError
from rayvldd.experts.store.expert_records import ExpertRecords
from rayvldd.experts.store.file_names import data_file, manifest_file, record_file
from rayvldd.experts.store.inspection import SetSummary, check_keys, fault_of_tensors, summaries
from rayvldd.experts.trajectory_file import write_tensors
from rayvldd.records.form import Values
from rayvldd.storage.json_files import json_text
from rayvldd.storage.lease import LeaseHolder
from rayvldd.storage.tensor_source import DamagedFileError, MappedTensors, checksum


@dataclass
class Copied:
    """Result of copying experts."""

    copied: int = 0
    there: int = 0
    """Experts already at the destination, with all epochs of the source."""
    held: list[str] = field(default_factory=list)
    """Experts that another command is training at the destination, by file name."""
    faults: list[str] = field(default_factory=list)
    """Sets and experts that cannot be copied, with the reason."""
    num_bytes: int = 0


class PlannedCopy(Values):
    """The sets that ``rayvldd experts copy --dry-run`` would copy."""

    source: str
    keys: list[str]


class CopyOutput(Values):
    """Result of ``rayvldd experts copy``: :class:`Copied` with both stores."""

    source: str
    destination: str
    copied: int
    there: int
    held: list[str]
    faults: list[str]
    num_bytes: int


OnExpert = Callable[[int, int, str], None]
"""Called with (experts done, experts in total, current file)."""


def copy_sets(
    source: ExpertRecords,
    destination: ExpertRecords,
    keys: list[str] | tuple[str, ...] = (),
    on_expert: OnExpert | None = None,
) -> Copied:
    """Copy the complete experts of sets; experts already at the destination are not changed.

    The checksum of every tensor is verified after reading and again after writing, before the expert becomes visible.
    An interruption costs only the expert being copied.

    Args:
        source: Store to read.
        destination: Store to write.
        keys: Keys of the sets; default: all usable sets.
        on_expert: Called before each expert is copied.

    Raises:
        InputError: when a key does not exist, or both stores are the same.
        StoreError: when a storage cannot be read or written, or the destination holds other experts under a key.
    """
    if source.uri == destination.uri:
        raise InputError([Fault("DST", f"got {destination.uri}, which is SRC", "another store")])
    check_keys(source, keys)
    chosen = [summary for summary in summaries(source) if not keys or summary.key in keys]
    jobs = [(summary, index) for summary in chosen for index in summary.records]
    result, lease_holder = Copied(), LeaseHolder()
    result.faults += [f"{summary.key}: {summary.fault}" for summary in chosen if summary.fault]
    for summary in chosen:
        if summary.records:
            destination.finished(summary.recipe)  # refuses a set of another recipe before copying starts
    for done, (summary, index) in enumerate(jobs):
        name = data_file(summary.key, index)
        if on_expert:
            on_expert(done, len(jobs), name)
        there = destination.record(summary.recipe, index)
        ours, theirs = set(summary.records[index]["epochs"]), set(there["epochs"] if there else ())
        if ours <= theirs:
            result.there += 1
            continue
        if not theirs <= ours:
            result.faults.append(f"{name}: SRC keeps epochs {_listed(ours)}, DST {_listed(theirs)}: neither has all")
            continue
        lease = destination.acquire(summary.recipe, index, lease_holder)
        if lease is None:
            result.held.append(name)
            continue
        try:
            with lease:
                _copy_expert(source, destination, summary, index)
        except DamagedFileError as error:
            result.faults.append(str(error))
            continue
        result.copied += 1
        result.num_bytes += summary.records[index]["bytes"]
    return result


def _copy_expert(source: ExpertRecords, destination: ExpertRecords, summary: SetSummary, index: int) -> None:
    record, name = summary.records[index], data_file(summary.key, index)
    storage = destination.storage
    start = record["start"]
    if start and fault_of_tensors(storage, start["name"], start["checksums"]):
        _copy_file(source, destination, start["name"], start["checksums"])
    storage.swap(manifest_file(summary.key), None, json_text(summary.manifest))
    # As when an expert is replaced by one with more epochs: delete the record before the file that it describes.
    storage.delete(record_file(summary.key, index))
    size = _copy_file(source, destination, name, record["checksums"])
    storage.write(record_file(summary.key, index), json_text({**record, "bytes": size}))
    destination.drop_epochs(summary.recipe, index)


def _copy_file(source: ExpertRecords, destination: ExpertRecords, name: str, checksums: dict[str, str]) -> int:
    """Copy one tensor file and return its size in bytes; it appears at the destination only if it is correct."""
    why = fault_of_tensors(source.storage, name, checksums)
    if why:
        raise DamagedFileError(f"{source.uri}: {name}: {why}")
    tensors = source.storage.open_tensors(name)
    with destination.storage.new_file(name) as path:
        write_tensors(path, {tensor: tensors.tensor(tensor) for tensor in checksums}, tensors.metadata)
        written = MappedTensors(path)
        wrong = [tensor for tensor in checksums if checksum(written.tensor(tensor)) != checksums[tensor]]
        if wrong:
            raise StoreError(
                f"{destination.uri}: {name}: was not written as it was read: {', '.join(wrong)}",
                next_command="look at the disk, then the same command: copied experts are kept",
            )
        return path.stat().st_size


def _listed(epochs: set[int]) -> str:
    return ", ".join(map(str, sorted(epochs)))
