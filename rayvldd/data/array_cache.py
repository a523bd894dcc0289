"""Cache of expensive arrays, shared by all processes of a machine.

The name of an array is a hash of everything that determines its content, so changed inputs lead to another file and
stale arrays are never read. A checksum is stored next to each array. A machine verifies it when it first opens the
file, and after every change of the file's times or size; a damaged file is made again.
"""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import xxhash
from filelock import FileLock

from rayvldd.errors import StoreError
from rayvldd.records.json_values import JsonValue
from rayvldd.storage.atomic import put_in_place, write_bytes_whole, write_text_whole
from rayvldd.storage.json_files import parsed
from rayvldd.storage.machine_identity import machine_identity

_BLOCK_BYTES = 2**20


def fingerprint(value: object) -> str:
    """Return a hash of a JSON value, 16 hex digits, which does not depend on the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ListFingerprint:
    """The :func:`fingerprint` of a list, computed incrementally without keeping the list in memory."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"[")
        self._separator = ""

    def add(self, value: object) -> None:
        """Append a value."""
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        self._digest.update((self._separator + text).encode())
        self._separator = ","

    def hexdigest(self) -> str:
        """The fingerprint of the list of all values so far, 16 hex digits."""
        digest = self._digest.copy()
        digest.update(b"]")
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ArrayDescription:
    """Identity of a cached array: its name follows from what determines its content."""

    kind: str
    """Kind of content, e.g. ``pixels``; the readable part of the name."""
    key: Mapping[str, JsonValue]
    """Everything that determines the content, as a JSON value."""
    shape: tuple[int, ...]
    dtype: str
    """Name of the numpy dtype."""

    def as_dict(self) -> dict[str, JsonValue]:
        """The description as a JSON value."""
        return {"kind": self.kind, "key": dict(self.key), "shape": [*self.shape], "dtype": self.dtype}

    @property
    def name(self) -> str:
        """Name of the array, the same on every machine."""
        return f"{self.kind}-{fingerprint(self.as_dict())}"


@runtime_checkable
class ArraySource(Protocol):
    """A source of finished arrays other than the cache."""

    def parts(self, array: ArrayDescription) -> Iterator[np.ndarray] | None:
        """Yield the array's rows in order, in parts; None if the source does not have the array."""
        ...


class ArrayCache:
    """A folder of memory-mapped arrays, each with a JSON file that records its key and checksum."""

    def __init__(self, folder: Path, source: ArraySource | None = None, *, shared_folder: Path | None = None) -> None:
        """Set up the cache without reading or creating anything.

        Args:
            folder: Folder on a local or a shared disk.
            source: Tried before an array is made.
            shared_folder: Folder of small files that all machines share; default: the same.
        """
        self.folder, self.shared_folder = folder, shared_folder or folder
        self._source = source

    def get_or_make(
        self,
        kind: str,
        key: Mapping[str, JsonValue],
        shape: tuple[int, ...],
        dtype: type[np.generic] | str,
        make: Callable[[np.ndarray], None],
        on_fetched: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the array of this kind and key, read-only and memory-mapped; fetch or make it if it is missing.

        If several processes request the same array, one makes it and the others wait.

        Args:
            kind: Kind of content, e.g. ``pixels``; the readable part of the file name.
            key: Everything that determines the array's content, as a JSON value.
            shape: Shape of the array.
            dtype: Anything that ``numpy.dtype`` accepts.
            make: Fills a writable array of that shape; if it raises, nothing is cached.
            on_fetched: Called with the number of rows fetched from the source so far.

        Raises:
            StoreError: when the folder cannot be written, or the source is damaged.
        """
        described = ArrayDescription(kind, key, shape, np.dtype(dtype).name)
        path = self.folder / f"{described.name}.npy"
        array = _open(path) if _is_verified(path) else None
        if array is None and not os.access(self.folder, os.W_OK) and self._verify(path):
            array = _open(path)  # a read-only cache: neither a lock nor a marker can be written
        if array is None:
            with self._locked(path):
                # Another process may have made or verified it in the meantime.
                if not _is_verified(path) and not self._verify(path):
                    self._make(path, described, make, on_fetched)
                array = _open(path)
        if array is None:
            raise StoreError(
                f"{path} was written but cannot be read back", next_command=f"check the disk of {self.folder}"
            )
        return array

    def _verify(self, path: Path) -> bool:
        """Whether the file's checksum is the recorded one. The caller must hold the lock."""
        try:
            written = (parsed(path.with_suffix(".json").read_bytes()) or {}).get("checksum")
            if written != _checksum(path):
                return False
        except OSError:
            return False
        _mark_verified(path)
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
        temporary = path.with_suffix(".partial")  # a fixed name, so the remains of a killed process are overwritten
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
            _mark_verified(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _write_parts(
        self, path: Path, offset: int, parts: Iterator[np.ndarray], on_fetched: Callable[[int], None] | None
    ) -> None:
        """Append the parts to the file; pages of a memory map would count as memory of this process."""
        done = 0
        with path.open("r+b") as file:
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
    """Open a finished array; None if the file is missing or damaged."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None


def _checksum(path: Path) -> str:
    """Hash of a file, 32 hex digits. It is read in blocks; pages of a memory map would count as memory."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _is_verified(path: Path) -> bool:
    """Whether this machine has verified the file in its present state since the machine was booted."""
    try:
        return _verified_marker(path).read_bytes() == _file_state(path)
    except OSError:
        return False


def _mark_verified(path: Path) -> None:
    with suppress(OSError):  # without the marker the next process verifies the file again
        write_bytes_whole(_verified_marker(path), _file_state(path))


def _verified_marker(path: Path) -> Path:
    """Marker file of this machine for a verified array; machines with the same host name overwrite each other's."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return path.with_name(f".{path.stem}.{machine}.verified")


def _file_state(path: Path) -> bytes:
    """Identity of a file's state, which changes with the file and with every boot of the machine.

    Raises:
        OSError: if the file does not exist.
    """
    found = path.stat()
    values = (machine_identity(), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    return " ".join(map(str, values)).encode()


def _reserve(path: Path) -> None:
    """Allocate the file's whole space now: on a full disk, writing to a sparse map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
