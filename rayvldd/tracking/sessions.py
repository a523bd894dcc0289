"""Processes that log runs to MLflow: each has a file in the workspace, by which others find the runs of dead ones.

The process holds a lock of its file and renews the file's time while it lives. On one machine the lock decides. A file
of another machine that shares the folder counts as alive while its time is renewed; the times are those of the file
system, so that clocks of different machines are never compared.
"""

import fcntl
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout

from rayvldd.background import RepeatedCall
from rayvldd.errors import RayvlddError, message_of
from rayvldd.records.form import Record
from rayvldd.storage.json_files import json_text, parsed
from rayvldd.storage.machine_identity import machine_identity

logger = logging.getLogger(__name__)

BEAT_S = 15.0
"""Seconds between two renewals of a file."""
STALE_S = 300.0
"""Seconds without a renewal after which a process on another machine counts as dead."""
_WAIT_S = 60.0
"""Seconds to wait for a process that ends the runs of dead ones."""
_OF_THIS_PROCESS: set[str] = set()
"""Tokens of this process. On some file systems, closing a file drops all locks that the process has of it."""


class _SessionNote(Record):
    """Content of the file."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the note of a process that logs to MLflow"
    remedy: ClassVar[str] = "remove {file} and repeat the command"

    tracking_uri: str
    """The tracker; empty for the embedded one, whose address changes with that of the workspace."""
    machine: str
    """From :func:`machine_identity`."""
    study: str
    """Identity of the study; a process that continues it has the same one."""
    inode: int
    """Number of the file in its file system, which a move keeps; a copy of the file has another one."""


@dataclass(frozen=True)
class DeadSession:
    """A process that ended without closing its runs."""

    token: str
    """Value of the tag of its runs."""
    last_seen_s: float
    """When it was seen last, in seconds since 1970."""


class Session:
    """The note of this process; its runs have a tag with the token.

    Args:
        folder: Folder of the notes; None: there is no note.
        tracking_uri: The tracker without passwords; empty for the embedded one.
    """

    def __init__(self, folder: Path | None, tracking_uri: str) -> None:
        self.token = secrets.token_hex(8)
        self._folder, self._tracking_uri = folder, tracking_uri
        self._descriptor: int | None = None
        self._beats: RepeatedCall | None = None

    def begin(self, study: str) -> None:
        """Write the note, before runs are opened; a folder that cannot be written has no effect on them.

        Args:
            study: Identity of the study; empty for runs that no other process continues.
        """
        if self._folder is None or self._descriptor is not None:
            return
        file = self._folder / f"{self.token}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Another process must not end the runs of this study while it is continued.
            with FileLock(_lock_of(self._folder), timeout=_WAIT_S):
                self._descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
                _OF_THIS_PROCESS.add(self.token)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                note = _SessionNote(
                    tracking_uri=self._tracking_uri,
                    machine=machine_identity(),
                    study=study,
                    inode=os.fstat(self._descriptor).st_ino,
                )
                os.write(self._descriptor, json_text(note.as_json()))
        except OSError as error:
            logger.debug("%s: runs that a killed process leaves will not be ended: %s", self._folder, message_of(error))
            self.end()
            return
        # By its descriptor: the folder may be moved in the meantime.
        renew = partial(os.utime, self._descriptor)
        self._beats = RepeatedCall(f"note {file}", BEAT_S, renew, "not renewed").start()

    def end(self) -> None:
        """Remove the note, after all runs are closed."""
        if self._beats is not None:
            self._beats.stop()
        if self._folder is not None:
            _remove(self._folder, self.token)
        if self._descriptor is not None:
            os.close(self._descriptor)
        _OF_THIS_PROCESS.discard(self.token)
        self._descriptor, self._beats = None, None


def living_sessions(folder: Path) -> int:
    """The number of processes that log to the workspace; 0 if that cannot be found out."""
    if not _notes(folder):
        return 0
    try:
        # A process that begins could not lock its note while that is probed.
        with FileLock(_lock_of(folder), timeout=_WAIT_S):
            return _count_living(folder)
    except Timeout:
        return 1  # the process that still ends the runs of dead ones
    except OSError:  # the lock is of another user
        return _count_living(folder)


def _count_living(folder: Path) -> int:
    try:
        now_s = _now_on(folder)
        return sum(_is_alive(file, now_s) for file in _notes(folder))
    except OSError:
        return 0


@contextmanager
def dead_sessions(folder: Path, tracking_uri: str) -> Iterator[list[DeadSession]]:
    """Find the processes that ended without closing their runs at a tracker; no other process does so meanwhile.

    Args:
        folder: Folder of the notes.
        tracking_uri: As for :class:`Session`.

    Yields:
        Those whose study no living process continues; none if the folder cannot be written.
    """
    if not _notes(folder):
        yield []
        return
    lock = FileLock(_lock_of(folder), timeout=0)
    try:
        lock.acquire()
    except OSError:  # also if another process has it
        yield []
        return
    try:
        yield _dead(folder, tracking_uri)
    finally:
        lock.release()


def forget(folder: Path, session: DeadSession) -> None:
    """Remove the note of a process whose runs are closed."""
    _remove(folder, session.token)


def _dead(folder: Path, tracking_uri: str) -> list[DeadSession]:
    found, continued = [], set()
    try:
        now_s = _now_on(folder)
        for file in _notes(folder):
            with suppress(FileNotFoundError):  # its process has just ended
                note = _read(file)
                if _is_alive(file, now_s):
                    continued.add(note.study if note else "")
                elif note is None:
                    if _is_cut_off(file):  # its process was killed before it opened a run
                        file.unlink(missing_ok=True)
                elif note.tracking_uri and note.inode != file.stat().st_ino:
                    # A copy has no lock; the process may be alive, and the copy of the workspace has the same tracker.
                    file.unlink(missing_ok=True)
                elif note.tracking_uri == tracking_uri:
                    found.append((note.study, DeadSession(file.stem, file.stat().st_mtime)))
    except OSError:
        return []
    return [session for study, session in found if not study or study not in continued]


def _is_alive(file: Path, now_s: float) -> bool:
    """Whether the process of a note is alive.

    Args:
        file: The note.
        now_s: Present time of its file system.
    """
    if file.stem in _OF_THIS_PROCESS:
        return True
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:  # the process has just ended
        return False
    except OSError:  # the file of another user
        return _is_renewed(file, now_s)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    note = _read(file)
    if note is not None and note.machine == machine_identity():
        return False
    return _is_renewed(file, now_s)


def _is_renewed(file: Path, now_s: float) -> bool:
    try:
        return now_s - file.stat().st_mtime < STALE_S
    except FileNotFoundError:  # the process has just ended
        return False


def _remove(folder: Path, token: str) -> None:
    with suppress(OSError):
        (folder / f"{token}.json").unlink(missing_ok=True)


def _read(file: Path) -> _SessionNote | None:
    try:
        return _SessionNote.read(file)
    except RayvlddError:
        return None


def _is_cut_off(file: Path) -> bool:
    """Whether a note was not written to its end; one of a newer release cannot be read either, but is whole."""
    try:
        return parsed(file.read_bytes()) is None
    except OSError:
        return False


def _now_on(folder: Path) -> float:
    """The present time of a folder's file system, in seconds since 1970."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime


def _notes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _lock_of(folder: Path) -> Path:
    return folder / ".lock"
