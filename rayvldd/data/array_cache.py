"""Arrays that are expensive to make, made once and shared by every process of a machine.

An array is named by the content that decides it, so a changed input asks for another file: nothing stale is read.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from rayvldd.errors import StoreError


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that name a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ArrayCache:
    """A folder of memory-mapped arrays, each beside a JSON file with the key that it was made for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_or_make(
        self,
        kind: str,
        key: Mapping[str, Any],
        shape: tuple[int, ...],
        dtype: Any,
        make: Callable[[np.ndarray], None],
    ) -> np.ndarray:
        """Return the array of this kind and key, read-only and memory-mapped; fill a new one if there is none.

        Processes that ask for the same array at the same time wait for the one that makes it.

        Args:
            kind: What the array holds, e.g. ``pixels``; the readable part of the file's name.
            key: Everything that decides the array's content, as a JSON value.
            shape: Shape of the array.
            dtype: Anything that ``numpy.dtype`` takes.
            make: Fills a writable array of that shape; when it raises, nothing is kept.

        Raises:
            StoreError: when the folder cannot be written.
        """
        described = {"kind": kind, "key": dict(key), "shape": list(shape), "dtype": np.dtype(dtype).name}
        path = self.folder / f"{kind}-{fingerprint(described)}.npy"
        array = _open(path)
        if array is None:
            with self._locked(path):
                array = _open(path)  # another process may have made it meanwhile
                if array is None:
                    self._make(path, described, shape, dtype, make)
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
        described: dict[str, Any],
        shape: tuple[int, ...],
        dtype: Any,
        make: Callable[[np.ndarray], None],
    ) -> None:
        temporary = path.with_suffix(".partial")  # a fixed name, so what a killed process left is overwritten
        try:
            try:
                array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
                _reserve(temporary)
            except OSError as error:
                raise self._not_writable(error) from None
            make(array)
            array.flush()
            del array
            sidecar = path.with_suffix(".json.partial")
            sidecar.write_text(json.dumps(described, indent=1), encoding="utf-8")
            os.replace(sidecar, path.with_suffix(".json"))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

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
