"""Leases: one process holds a lease while it works, and another may take it over after the holder dies.

Clocks of different machines are never compared. The holder increments a counter in its lease (the heartbeat). A process
that needs the lease watches the counter with its own clock and takes over when the counter has not changed for
:data:`STALE_S`. If the holder ran on the same machine and its process has ended, the lease is taken over at once.
"""

import json
import os
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeGuard

import psutil

from rayvldd.background import RepeatedCall
from rayvldd.storage.json_files import parsed
from rayvldd.storage.machine_identity import machine_identity
from rayvldd.storage.storage import Storage

BEAT_S = 5.0
"""Seconds between two heartbeats of a holder."""
STALE_S = 30.0
"""Seconds without a heartbeat after which a holder counts as dead."""
_NUMBERS = {"process", "beat", "done"}
_NUMBERS_END = 2**31
"""End of the numbers in a lease: the operating system cannot be asked for a process beyond it."""


@dataclass(frozen=True)
class LeaseState:
    """Content of a lease file."""

    owner: str
    """Identity of the holder; another process with the same owner continues its work."""
    machine: str
    """Machine of the holder, from :func:`machine_identity`."""
    process: int
    beat: int
    """Heartbeat counter; increases while the holder is alive."""
    done: int
    """Progress of the work."""

    def as_bytes(self) -> bytes:
        """Encode the state for its file."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, content: bytes) -> "LeaseState | None":
        """Parse a lease file; None if it is invalid, in which case it goes stale like the lease of a dead holder."""
        match parsed(content):
            case {"owner": str(owner), "machine": str(machine), **numbers} if numbers.keys() == _NUMBERS:
                process, beat, done = (numbers[name] for name in ("process", "beat", "done"))
                if _is_number(process) and _is_number(beat) and _is_number(done):
                    return cls(owner, machine, process, beat, done)
        return None


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _NUMBERS_END


class Lease:
    """A lease held by this process; a thread writes heartbeats until it is released."""

    def __init__(self, storage: Storage, name: str, state: LeaseState) -> None:
        self._storage, self._name, self._state = storage, name, state
        self._lock = threading.Lock()
        self._beats = RepeatedCall(
            f"lease {name} of {storage.uri}", BEAT_S, self._beat_again, "not renewed, others may take the work over"
        ).start()

    @property
    def error(self) -> Exception | None:
        """Error of the last heartbeat of the thread; None if it succeeded."""
        return self._beats.error

    def report_progress(self, done: int) -> None:
        """Publish the progress of the work to waiting processes; a failed write does not affect the work."""
        with suppress(Exception), self._lock:  # the heartbeat thread reports persistent failures
            self._beat(done)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self._beats.stop()
        with suppress(Exception):  # the lease then goes stale; the work itself is done
            if self._storage.read(self._name) == self._state.as_bytes():
                self._storage.delete(self._name)

    def _beat(self, done: int) -> None:
        """Write a heartbeat. If another process took the lease over, both continue: they produce the same expert."""
        after = replace(self._state, beat=self._state.beat + 1, done=done)
        if self._storage.swap(self._name, self._state.as_bytes(), after.as_bytes()):
            self._state = after

    def _beat_again(self) -> None:
        with self._lock:
            self._beat(self._state.done)


class LeaseHolder:
    """Acquires leases for one owner and watches the leases of others."""

    def __init__(self, owner: str | None = None) -> None:
        self.owner = owner or secrets.token_hex(8)
        self._watched: dict[str, tuple[bytes, float]] = {}
        """By lease name: its last content, and when this process first saw that content."""

    def acquire(self, storage: Storage, name: str) -> Lease | None:
        """Acquire a lease that is free, stale or held by this owner; None if a live process holds it."""
        content = storage.read(name)
        if not self.may_take(name, content):
            return None
        state = LeaseState(self.owner, machine_identity(), os.getpid(), beat=0, done=0)
        return Lease(storage, name, state) if storage.swap(name, content, state.as_bytes()) else None

    def may_take(self, name: str, content: bytes | None) -> bool:
        """Whether a lease is free, stale or held by this owner, judged by the observations so far.

        Args:
            name: Lease file.
            content: Current content of the file; None if it does not exist.
        """
        if content is None:
            return True
        state = LeaseState.read(content)
        if state and (state.owner == self.owner or is_dead_here(state)):
            return True
        now = time.monotonic()
        seen, since = self._watched.setdefault(name, (content, now))
        if seen != content:
            self._watched[name] = (content, now)
            return False
        return now - since >= STALE_S


def state_of(storage: Storage, name: str) -> LeaseState | None:
    """Read the state of a lease; None if there is none."""
    content = storage.read(name)
    return LeaseState.read(content) if content is not None else None


def is_dead_here(state: LeaseState) -> bool:
    """Whether the holder was a process on this machine and has ended."""
    return state.machine == machine_identity() and not psutil.pid_exists(state.process)
