"""Clear away what dead commands left in a store of experts, and nothing that a living one holds.

Files go under the claim of their expert, taken for the purpose, so whoever wants that expert waits for the moment it
takes. A claim of another machine counts as dead only after it was watched for as long as any other command would.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rayvldd.stores.claims import STALE_S, Claimant
from rayvldd.stores.expert_store import ExpertStore
from rayvldd.stores.place import KeepsParts, Place
from rayvldd.stores.set_files import (
    by_key,
    claim_file,
    data_file,
    epochs_folder,
    index_of,
    is_claim,
    is_data,
    is_epoch,
    is_record,
    is_start,
    parsed,
    record_file,
)
from rayvldd.stores.upkeep import summary_of

_LOOK_S = 0.5
"""Seconds between two looks at claims that may be alive."""


@dataclass(frozen=True)
class Leftover:
    """Files that no command will use again, or that nothing says what made them."""

    key: str
    """The set; empty for parts of files, which belong to the place."""
    index: int | None
    """The expert whose claim has to be free; None where all claims of the set have to be."""
    what: str
    names: tuple[str, ...]
    num_bytes: int


OnWait = Callable[[int, float], None]
"""Told (claims that may be alive, seconds they will still be watched)."""


class Pruning:
    """One look at a store and the clearing after it, which share what was seen of claims."""

    def __init__(self, store: ExpertStore) -> None:
        self._store, self._place, self._claimant = store, store.place, Claimant()

    def find(self, *, unreadable: bool = False, on_wait: OnWait | None = None) -> list[Leftover]:
        """What could be cleared away; nothing is changed.

        Args:
            unreadable: Also sets of which nothing says what made them.
            on_wait: Told while claims are watched, which takes as long as a claim may stand still.

        Raises:
            StoreError: when the place cannot be read.
        """
        held = self._held([name for name in self._place.names() if is_claim(name)], on_wait)
        leftovers: list[Leftover] = []
        for key, names in by_key(self._place.names()).items():
            summary = summary_of(self._store, key)
            if summary.fault:  # of another version, whose files we do not know, or unreadable
                if unreadable and summary.is_unreadable and not held & set(names):
                    leftovers.append(self._leftover(key, None, "a set without a readable manifest", names))
                continue
            leftovers += self._of_experts(key, names, held)
            starts = [] if held & set(names) else _unused_starts(self._place, names)
            if starts:
                leftovers.append(self._leftover(key, None, "starts that no expert shares", starts))
        parts = self._place.abandoned_parts() if isinstance(self._place, KeepsParts) else {}
        if parts:
            leftovers.append(Leftover("", None, "parts of dead writers", tuple(parts), sum(parts.values())))
        return leftovers

    def remove(self, leftover: Leftover) -> bool:
        """Clear one away; return False, with nothing removed, where a command has come to hold it.

        Raises:
            StoreError: when the place cannot be written.
        """
        if not leftover.key:
            if isinstance(self._place, KeepsParts):
                self._place.drop_parts(leftover.names)
            return True
        if leftover.index is not None:
            return self._remove_of_expert(leftover.key, leftover.index)
        names = self._place.names(leftover.key)
        if self._held([name for name in names if is_claim(name)], None):
            return False
        if not summary_of(self._store, leftover.key).is_unreadable:
            names = _unused_starts(self._place, names)
        for name in sorted(set(names) & set(leftover.names)):
            self._place.delete(name)
        return True

    def _of_experts(self, key: str, names: list[str], held: set[str]) -> Iterator[Leftover]:
        for index in sorted({index_of(name) for name in names if "/expert_" in name}):
            found = _left_of_expert(key, index, names)
            if found and claim_file(key, index) not in held:
                kinds = [
                    ("unfinished epochs", any(map(is_epoch, found))),
                    ("a claim that nobody holds", any(map(is_claim, found))),
                    ("a file without its record", any(map(is_data, found))),
                ]
                what = ", ".join(kind for kind, is_there in kinds if is_there)
                yield self._leftover(key, index, f"expert {index}: {what}", found)

    def _remove_of_expert(self, key: str, index: int) -> bool:
        claim = self._claimant.claim(self._place, claim_file(key, index))
        if claim is None:
            return False
        with claim:  # what it held is seen again: its command may have come to an end since
            for name in _left_of_expert(key, index, self._place.names(key)):
                if not is_claim(name):  # this process's own by now, given back in the end
                    self._place.delete(name)
        return True

    def _leftover(self, key: str, index: int | None, what: str, names: Iterable[str]) -> Leftover:
        sizes = {name: self._place.size(name) or 0 for name in names}
        return Leftover(key, index, what, tuple(sizes), sum(sizes.values()))

    def _held(self, claims: list[str], on_wait: OnWait | None) -> set[str]:
        """The claims that somebody alive holds, after watching each until it beats or stands still for too long."""
        first = {name: self._place.read(name) for name in claims}
        undecided, held = set(claims), set()
        until = time.monotonic() + STALE_S + _LOOK_S
        while True:
            for name in sorted(undecided):
                content = self._place.read(name)
                if self._claimant.may_take(name, content):
                    undecided.discard(name)
                elif content != first[name]:
                    undecided.discard(name)
                    held.add(name)
            left = until - time.monotonic()
            if not undecided or left <= 0:
                return held | undecided
            if on_wait:
                on_wait(len(undecided), left)
            time.sleep(_LOOK_S)


def _left_of_expert(key: str, index: int, names: list[str]) -> list[str]:
    """What lies there of an expert that is not finished, or is beside one that is."""
    there = set(names)
    found = [name for name in names if name.startswith(f"{epochs_folder(key, index)}/")]
    if claim_file(key, index) in there:
        found.append(claim_file(key, index))
    if data_file(key, index) in there and record_file(key, index) not in there:
        found.append(data_file(key, index))
    return found


def _unused_starts(place: Place, names: list[str]) -> list[str]:
    """Starts that no record names; none where a record cannot be read, for it may name any."""
    records = [parsed(place.read(name)) for name in names if is_record(name)]
    if any(record is None for record in records):
        return []
    used = {record["start"]["name"] for record in records if record and record.get("start")}
    return [name for name in names if is_start(name) and name not in used]
