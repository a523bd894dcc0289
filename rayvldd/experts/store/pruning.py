"""Remove leftovers of dead commands from an expert store, and nothing that a live command uses.

Files are removed while holding the lease of their expert, so other commands wait meanwhile. A lease of another machine
counts as stale only after it has been watched for the full time limit of a lease.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rayvldd.experts.store.expert_records import ExpertRecords
from rayvldd.experts.store.file_names import (
    by_key,
    data_file,
    epochs_folder,
    index_of,
    is_data,
    is_epoch,
    is_lease,
    is_record,
    is_start,
    lease_file,
    record_file,
)
from rayvldd.experts.store.inspection import summary_of
from rayvldd.records.form import Values
from rayvldd.records.json_values import text_at
from rayvldd.storage.json_files import parsed
from rayvldd.storage.lease import STALE_S, LeaseHolder
from rayvldd.storage.storage import KeepsParts, Storage

_LOOK_S = 0.5
"""Seconds between two checks of leases that may be alive."""


@dataclass(frozen=True)
class Leftover:
    """Files that no command will use again, or whose origin is unknown."""

    key: str
    """Key of the set; empty for partial files of the storage."""
    index: int | None
    """Expert whose lease must be free; None if all leases of the set must be free."""
    what: str
    names: tuple[str, ...]
    num_bytes: int


class Pruned(Values):
    """Result of ``rayvldd experts prune``."""

    store: str
    left_over: list[Leftover]
    removed: int = 0
    """Number of those that were deleted."""


OnWait = Callable[[int, float], None]
"""Called with (leases that may be alive, seconds of watching left)."""


class Pruning:
    """Find and remove leftovers of a store; both steps share the observed leases."""

    def __init__(self, store: ExpertRecords) -> None:
        self._store, self._storage, self._lease_holder = store, store.storage, LeaseHolder()

    def find(self, *, unreadable: bool = False, on_wait: OnWait | None = None) -> list[Leftover]:
        """List the files that can be removed, without changing anything.

        Args:
            unreadable: Include sets without a readable manifest.
            on_wait: Called while leases are watched, for up to the time after which a lease is stale.

        Raises:
            StoreError: when the storage cannot be read.
        """
        held = self._held([name for name in self._storage.names() if is_lease(name)], on_wait)
        leftovers: list[Leftover] = []
        for key, names in by_key(self._storage.names()).items():
            summary = summary_of(self._store, key)
            if summary.fault:  # unreadable, or of another version with unknown files
                if unreadable and summary.is_unreadable and not held & set(names):
                    leftovers.append(self._leftover(key, None, "a set without a readable manifest", names))
                continue
            leftovers += self._of_experts(key, names, held)
            starts = [] if held & set(names) else _unused_starts(self._storage, names)
            if starts:
                leftovers.append(self._leftover(key, None, "starts that no expert shares", starts))
        parts = self._storage.abandoned_parts() if isinstance(self._storage, KeepsParts) else {}
        if parts:
            leftovers.append(Leftover("", None, "parts of dead writers", tuple(parts), sum(parts.values())))
        return leftovers

    def remove(self, leftover: Leftover) -> bool:
        """Remove one leftover; return False, with nothing removed, if a command has acquired it meanwhile.

        Raises:
            StoreError: when the storage cannot be written.
        """
        if not leftover.key:
            if isinstance(self._storage, KeepsParts):
                self._storage.drop_parts(leftover.names)
            return True
        if leftover.index is not None:
            return self._remove_of_expert(leftover.key, leftover.index)
        names = self._storage.names(leftover.key)
        if self._held([name for name in names if is_lease(name)], None):
            return False
        if not summary_of(self._store, leftover.key).is_unreadable:
            names = _unused_starts(self._storage, names)
        for name in sorted(set(names) & set(leftover.names)):
            self._storage.delete(name)
        return True

    def _of_experts(self, key: str, names: list[str], held: set[str]) -> Iterator[Leftover]:
        for index in sorted({index_of(name) for name in names if "/expert_" in name}):
            found = _left_of_expert(key, index, names)
            if found and lease_file(key, index) not in held:
                kinds = [
                    ("unfinished epochs", any(map(is_epoch, found))),
                    ("a stale lease", any(map(is_lease, found))),
                    ("a file without its record", any(map(is_data, found))),
                ]
                what = ", ".join(kind for kind, is_there in kinds if is_there)
                yield self._leftover(key, index, f"expert {index}: {what}", found)

    def _remove_of_expert(self, key: str, index: int) -> bool:
        lease = self._lease_holder.acquire(self._storage, lease_file(key, index))
        if lease is None:
            return False
        with lease:  # list the files again: the command may have finished since
            for name in _left_of_expert(key, index, self._storage.names(key)):
                if not is_lease(name):  # now held by this process, and released at the end
                    self._storage.delete(name)
        return True

    def _leftover(self, key: str, index: int | None, what: str, names: Iterable[str]) -> Leftover:
        sizes = {name: self._storage.size(name) or 0 for name in names}
        return Leftover(key, index, what, tuple(sizes), sum(sizes.values()))

    def _held(self, leases: list[str], on_wait: OnWait | None) -> set[str]:
        """Return the leases held by live processes, after watching each for a heartbeat or until it is stale."""
        first = {name: self._storage.read(name) for name in leases}
        undecided, held = set(leases), set()
        until = None
        while True:
            # Reading may take long: the last look begins after a lease seen first would be stale, however long it took.
            is_last = until is not None and time.monotonic() >= until
            for name in sorted(undecided):
                content = self._storage.read(name)
                if self._lease_holder.may_take(name, content):
                    undecided.discard(name)
                elif content != first[name]:
                    undecided.discard(name)
                    held.add(name)
            if not undecided or is_last:
                return held | undecided
            until = until or time.monotonic() + STALE_S
            if on_wait:
                on_wait(len(undecided), max(until - time.monotonic(), 0.0))
            time.sleep(_LOOK_S)


def _left_of_expert(key: str, index: int, names: list[str]) -> list[str]:
    """Return the files of an unfinished expert, or leftovers beside a finished one."""
    there = set(names)
    found = [name for name in names if name.startswith(f"{epochs_folder(key, index)}/")]
    if lease_file(key, index) in there:
        found.append(lease_file(key, index))
    if data_file(key, index) in there and record_file(key, index) not in there:
        found.append(data_file(key, index))
    return found


def _unused_starts(storage: Storage, names: list[str]) -> list[str]:
    """Return shared initial states that no record names; empty if a record is unreadable, as it may name any."""
    records = [parsed(storage.read(name)) for name in names if is_record(name)]
    if any(record is None for record in records):
        return []
    used = {text_at(record, "start", "name") for record in records if record}
    return [name for name in names if is_start(name) and name not in used]
