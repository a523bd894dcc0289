"""Who makes what: a lease that one process holds while it works, and that others may take over when it is dead.

No clock of another machine is trusted. A holder counts up a number in its lease; whoever wants the lease watches that
number with a clock of its own, and takes over what has stood still for :data:`STALE_S`. A holder on the watcher's own
machine whose process is gone is not waited for.
"""

import json
import os
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import psutil

from rayvldd.background import RepeatedCall
from rayvldd.storage.machine_identity import machine_identity
from rayvldd.storage.storage import Storage

BEAT_S = 5.0
"""Seconds between two beats of a holder."""
STALE_S = 30.0
"""Seconds without a beat after which a holder counts as dead."""


@dataclass(frozen=True)
class LeaseState:
    """What stands in the file of a lease."""

    owner: str
    """The holder; another process with the same owner continues its work."""
    machine: str
    """Its machine, as :func:`machine_identity` names it."""
    process: int
    beat: int
    """Goes up while the holder lives."""
    done: int
    """How far the work is."""

    def as_bytes(self) -> bytes:
        """The content of the file."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, content: bytes) -> "LeaseState | None":
        """The state in a file; None where it cannot be understood, so that it goes stale like a dead holder's."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None


class Lease:
    """A lease that this process holds, beating in a thread until it is released."""

    def __init__(self, storage: Storage, name: str, state: LeaseState) -> None:
        self._storage, self._name, self._state = storage, name, state
        self._lock = threading.Lock()
        self._beats = RepeatedCall(
            f"lease {name} of {storage.uri}", BEAT_S, self._beat_again, "not renewed, others may take the work over"
        ).start()

    @property
    def error(self) -> Exception | None:
        """Why the last beat of the thread failed; None where it got through."""
        return self._beats.error

    def tell(self, done: int) -> None:
        """Let those who wait know how far the work is; a write that fails is no fault of the work."""
        with suppress(Exception), self._lock:  # the thread's own beats report what keeps failing
            self._beat(done)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self._beats.stop()
        with suppress(Exception):  # then it goes stale, and the work that it was for is done all the same
            if self._storage.read(self._name) == self._state.as_bytes():
                self._storage.delete(self._name)

    def _beat(self, done: int) -> None:
        """Count up. Where another took the lease over, both go on: an expert is the same whoever makes it."""
        after = replace(self._state, beat=self._state.beat + 1, done=done)
        if self._storage.swap(self._name, self._state.as_bytes(), after.as_bytes()):
            self._state = after

    def _beat_again(self) -> None:
        with self._lock:
            self._beat(self._state.done)


class LeaseHolder:
    """Takes leases for one owner, and watches those of others."""

    def __init__(self, owner: str | None = None) -> None:
        self.owner = owner or secrets.token_hex(8)
        self._watched: dict[str, tuple[bytes, float]] = {}
        """The content of a lease, and when this process first saw it."""

    def acquire(self, storage: Storage, name: str) -> Lease | None:
        """Take a lease that is free, dead or this owner's own; None where somebody alive holds it."""
        content = storage.read(name)
        if not self.may_take(name, content):
            return None
        state = LeaseState(self.owner, machine_identity(), os.getpid(), beat=0, done=0)
        return Lease(storage, name, state) if storage.swap(name, content, state.as_bytes()) else None

    def may_take(self, name: str, content: bytes | None) -> bool:
        """Whether a lease is free, dead or this owner's own, by all that has been seen of it so far.

        Args:
            name: Its file.
            content: What the file holds now; None where it is not there.
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
    """The holder of a lease; None where there is none."""
    content = storage.read(name)
    return LeaseState.read(content) if content is not None else None


def is_dead_here(state: LeaseState) -> bool:
    """Whether the holder was a process of this machine and is gone."""
    return state.machine == machine_identity() and not psutil.pid_exists(state.process)
