"""Arrays that are expensive to make, made once and shared by every process of a machine.

An array is named by the content that decides it, so a changed input asks for another file: nothing stale is read. Its
checksum stands beside it. A machine compares it when it first sees a file, and after every change of the file's times
or size; a file that is not what was written is made again.
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xxhash
from filelock import FileLock

from rayvldd.errors import StoreError
from rayvldd.storage.atomic import put_in_place, write_bytes_whole, write_text_whole
from rayvldd.storage.machine_identity import machine_identity

_BLOCK_BYTES = 2**20


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that name a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ListFingerprint:
    """The :func:`fingerprint` of a list that is never in memory as a whole."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"[")
        self._separator = ""

    def add(self, value: Any) -> None:
        """Take the list's next value."""
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        self._digest.update((self._separator + text).encode())
        self._separator = ","

    def name(self) -> str:
        """The fingerprint of the list of all values so far."""
        digest = self._digest.copy()
        digest.update(b"]")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ArrayDescription:
    """An array by what decides it, before it is made."""

    kind: str
    """What the array holds, e.g. ``pixels``; the readable part of its name."""
    key: Mapping[str, Any]
    """Everything that decides the array's content, as a JSON value."""
    shape: tuple[int, ...]
    dtype: str
    """As numpy names it."""

    def as_dict(self) -> dict[str, Any]:
        """The description as a JSON value."""
        return {"kind": self.kind, "key": dict(self.key), "shape": list(self.shape), "dtype": self.dtype}

    @property
    def name(self) -> str:
        """Names the content, on every machine."""
        return f"{self.kind}-{fingerprint(self.as_dict())}"


@runtime_checkable
class ArraySource(Protocol):
    """Where finished arrays may lie besides the cache."""

    def parts(self, array: ArrayDescription) -> Iterator[np.ndarray] | None:
        """The array's rows in order, a part at a time; None where it does not lie there."""
        ...


class ArrayCache:
    """A folder of memory-mapped arrays, each beside a JSON file with the key that it was made for."""

    def __init__(self, folder: Path, source: ArraySource | None = None) -> None:
        """Name a cache; nothing is read or made yet.

        Args:
            folder: On a disk of this machine, or on one that several machines share.
            source: Where an array is looked for before it is made.
        """
        self.folder = folder
        self._source = source

    def get_or_make(
        self,
        kind: str,
        key: Mapping[str, Any],
        shape: tuple[int, ...],
        dtype: Any,
        make: Callable[[np.ndarray], None],
        on_fetched: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the array of this kind and key, read-only and memory-mapped; fetch or fill a new one if there is none.

        Processes that ask for the same array at the same time wait for the one that makes it.

        Args:
            kind: What the array holds, e.g. ``pixels``; the readable part of the file's name.
            key: Everything that decides the array's content, as a JSON value.
            shape: Shape of the array.
            dtype: Anything that ``numpy.dtype`` takes.
            make: Fills a writable array of that shape; when it raises, nothing is kept.
            on_fetched: Told the rows that have come from the cache's source so far.

        Raises:
            StoreError: when the folder cannot be written, or the source is damaged.
        """
        described = ArrayDescription(kind, key, shape, np.dtype(dtype).name)
        path = self.folder / f"{described.name}.npy"
        array = _open(path) if _is_compared(path) else None
        if array is None and not os.access(self.folder, os.W_OK) and self._compare(path):
            array = _open(path)  # of a cache that somebody else fills, and that has no room for a lock or a note
        if array is None:
            with self._locked(path):
                # Another process may have made it, or compared it, meanwhile.
                if not _is_compared(path) and not self._compare(path):
                    self._make(path, described, make, on_fetched)
                array = _open(path)
        if array is None:
            raise StoreError(
                f"{path} was written and cannot be read back", next_command=f"check the disk of {self.folder}"
            )
        return array

    def _compare(self, path: Path) -> bool:
        """Read a file whole and say whether it is what was written; the caller holds its lock."""
        try:
            written = json.loads(path.with_suffix(".json").read_bytes())["checksum"]
            if written != _checksum(path):
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        _keep_note(path)
        return True

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        lock = FileLock(path.with_suffix(".lock"))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise self._not_writable(error) from None
        try:
            yield
        finally:
            lock.release()

    def _make(
        self,
        path: Path,
        described: ArrayDescription,
        make: Callable[[np.ndarray], None],
        on_fetched: Callable[[int], None] | None,
    ) -> None:
        temporary = path.with_suffix(".partial")  # a fixed name, so what a killed process left is overwritten
        try:
            parts = self._source.parts(described) if self._source else None
            try:
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=described.dtype, shape=described.shape)
                _reserve(temporary)
            except OSError as error:
                raise self._not_writable(error) from None
            if parts is None:
                make(array)
                array.flush()
            else:
                self._write_parts(temporary, array.offset, parts, on_fetched)
            del array
            values = {**described.as_dict(), "checksum": _checksum(temporary)}
            write_text_whole(path.with_suffix(".json"), json.dumps(values, indent=1))
            put_in_place(temporary, path)
            _keep_note(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _write_parts(
        self, path: Path, offset: int, parts: Iterator[np.ndarray], on_fetched: Callable[[int], None] | None
    ) -> None:
        """Write parts one behind the other; by file, for pages of a map would count as this process's memory."""
        done = 0
        with open(path, "r+b") as file:
            file.seek(offset)
            for part in parts:
                try:
                    file.write(np.ascontiguousarray(part).data)
                except OSError as error:
                    raise self._not_writable(error) from None
                done += len(part)
                if on_fetched:
                    on_fetched(done)

    def _not_writable(self, error: OSError) -> StoreError:
        return StoreError(
            f"the cache folder {self.folder} cannot be written: {error.strerror or error}",
            next_command="free the space or the permission, or choose another folder with --workspace FOLDER",
        )


def _open(path: Path) -> np.ndarray | None:
    """Open a finished array; a file that is missing or damaged counts as not there and is made again."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


def _checksum(path: Path) -> str:
    """32 hex digits that name a file's bytes: against damage. By file: pages of a map would count as this process's."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _is_compared(path: Path) -> bool:
    """Whether this machine has compared the file as it is now, since it was started."""
    try:
        return _note(path).read_bytes() == _state_of(path)
    except OSError:
        return False


def _keep_note(path: Path) -> None:
    with suppress(OSError):  # without it the next process compares again
        write_bytes_whole(_note(path), _state_of(path))


def _note(path: Path) -> Path:
    """Where a machine says that it has compared a file; machines of one name take turns."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return path.with_name(f".{path.stem}.{machine}.compared")


def _state_of(path: Path) -> bytes:
    """What changes when a file does, or when the machine starts again.

    Raises:
        OSError: when there is no such file.
    """
    found = path.stat()
    values = (machine_identity(), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    return " ".join(map(str, values)).encode()


def _reserve(path: Path) -> None:
    """Take the file's whole space now: on a full disk, writing to a sparse map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
