"""Arrays that are expensive to make, made once and shared by every process of a machine.

An array is named by the content that decides it, so a changed input asks for another file: nothing stale is read.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from filelock import FileLock

from rayvldd.errors import StoreError


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
        array = _open(path)
        if array is None:
            with self._locked(path):
                array = _open(path)  # another process may have made it meanwhile
                if array is None:
                    self._make(path, described, make, on_fetched)
                    array = _open(path)
        if array is None:
            raise StoreError(
                f"{path} was written and cannot be read back", next_command=f"check the disk of {self.folder}"
            )
        return array

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
            sidecar = path.with_suffix(".json.partial")
            sidecar.write_text(json.dumps(described.as_dict(), indent=1), encoding="utf-8")
            os.replace(sidecar, path.with_suffix(".json"))
            os.replace(temporary, path)
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


def _reserve(path: Path) -> None:
    """Take the file's whole space now: on a full disk, writing to a sparse map would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
