"""Copy expert sets from one store to another: tensors as they are, an expert completely or not at all."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rayvldd.errors import Fault, InputError, StoreError
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.store.file_names import data_file, manifest_file, record_file
from rayvldd.experts.store.inspection import SetSummary, check_keys, fault_of_tensors, summaries
from rayvldd.experts.trajectory_file import checksum, write_tensors
from rayvldd.storage.json_files import json_text
from rayvldd.storage.lease import LeaseHolder
from rayvldd.storage.tensor_files import DamagedFileError, MappedTensors


@dataclass
class Copied:
    """What became of the experts that were to be copied."""

    copied: int = 0
    there: int = 0
    """Experts that the destination had, with all epochs of the source."""
    held: list[str] = field(default_factory=list)
    """Experts that another command makes at the destination, by the name of their file."""
    faults: list[str] = field(default_factory=list)
    """Sets and experts that cannot be copied, with the reason."""
    num_bytes: int = 0


OnExpert = Callable[[int, int, str], None]
"""Told (experts done, experts in all, the file at hand)."""


def copy_sets(
    source: ExpertStore,
    destination: ExpertStore,
    keys: list[str] | tuple[str, ...] = (),
    on_expert: OnExpert | None = None,
) -> Copied:
    """Copy the complete experts of sets; what the destination has already stays as it is.

    Every tensor is compared with its checksum as it is read, and again as it was written, before the expert counts.
    An interruption costs the one expert at hand.

    Args:
        source: Where the sets are.
        destination: Where they are put.
        keys: The sets; default: all that can be used.
        on_expert: Told of every expert before it is copied.

    Raises:
        InputError: when there is no set of one of the keys, or both stores are one.
        StoreError: when a storage cannot be read or written, or the destination holds other experts under a key.
    """
    if source.uri == destination.uri:
        raise InputError([Fault("DST", f"got {destination.uri}, which is SRC", "another store")])
    check_keys(source, keys)
    chosen = [known for known in summaries(source) if not keys or known.key in keys]
    jobs = [(known, index) for known in chosen for index in known.records]
    result, lease_holder = Copied(), LeaseHolder()
    result.faults += [f"{known.key}: {known.fault}" for known in chosen if known.fault]
    for known in chosen:
        if known.records:
            destination.finished(known.recipe)  # refuses what was made for another recipe, before anything is copied
    for done, (known, index) in enumerate(jobs):
        name = data_file(known.key, index)
        if on_expert:
            on_expert(done, len(jobs), name)
        there = destination.record(known.recipe, index)
        ours, theirs = set(known.records[index]["epochs"]), set(there["epochs"] if there else ())
        if ours <= theirs:
            result.there += 1
            continue
        if not theirs <= ours:
            result.faults.append(f"{name}: SRC keeps epochs {_listed(ours)}, DST {_listed(theirs)}: neither has all")
            continue
        lease = destination.acquire(known.recipe, index, lease_holder)
        if lease is None:
            result.held.append(name)
            continue
        try:
            with lease:
                _copy_expert(source, destination, known, index)
        except DamagedFileError as error:
            result.faults.append(str(error))
            continue
        result.copied += 1
        result.num_bytes += known.records[index]["bytes"]
    return result


def _copy_expert(source: ExpertStore, destination: ExpertStore, known: SetSummary, index: int) -> None:
    record, name = known.records[index], data_file(known.key, index)
    storage = destination.storage
    start = record["start"]
    if start and fault_of_tensors(storage, start["name"], start["checksums"]):
        _copy_file(source, destination, start["name"], start["checksums"])
    storage.swap(manifest_file(known.key), None, json_text(known.manifest))
    # As where an expert is made again with more epochs: its record goes before the file that it describes.
    storage.delete(record_file(known.key, index))
    size = _copy_file(source, destination, name, record["checksums"])
    storage.write(record_file(known.key, index), json_text({**record, "bytes": size}))
    destination.drop_epochs(known.recipe, index)


def _copy_file(source: ExpertStore, destination: ExpertStore, name: str, checksums: dict[str, str]) -> int:
    """Copy one file of tensors and return its bytes at the destination, where it appears only if it is right."""
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
                next_command="look at the disk, then the same command: what was copied is kept",
            )
        return path.stat().st_size


def _listed(epochs: set[int]) -> str:
    return ", ".join(map(str, sorted(epochs)))
