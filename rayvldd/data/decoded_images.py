"""Decoded images of a split whose decoding was interrupted, saved for the next attempt.

One damaged file among 100,000, or Ctrl-C, ends the decoding of a split. The array of the next attempt has another
name, since a file has changed; the images that were decoded are therefore looked up one by one.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from rayvldd.data.array_cache import fingerprint
from rayvldd.records.json_values import JsonValue
from rayvldd.storage.json_files import parsed, write_json_whole

FileState = tuple[str, int, int]
"""Path or displayed name, size in bytes and modification time in nanoseconds of an image file."""


class DecodedImages:
    """A file of pixels in the cache folder, and an index of the image in each row."""

    def __init__(self, folder: Path, key: Mapping[str, JsonValue]) -> None:
        """Set the file's name without reading anything.

        Args:
            folder: Folder of the cache.
            key: Settings of the decoding, the folder of the images, and the split.
        """
        self._folder = folder
        self._name = f"decoded-{fingerprint(dict(key))}"

    @property
    def _index(self) -> Path:
        return self._folder / f"{self._name}.json"

    def fill(
        self, pixels: UInt8[np.ndarray, "image 3 height width"], files: Sequence[FileState]
    ) -> Bool[np.ndarray, " image"]:
        """Copy the saved images into ``pixels``; return a mask of the images that were found."""
        found = np.zeros(len(files), dtype=bool)
        index = (parsed(self._index.read_bytes()) if self._index.is_file() else None) or {}
        try:
            saved = np.load(self._folder / str(index["pixels"]), mmap_mode="r")
            listed: Any = index["files"]  # a file of another form raises one of the errors below
            rows = {(str(path), int(size), int(time)): int(row) for path, size, time, row in listed}
            if saved.shape[1:] != pixels.shape[1:] or saved.dtype != pixels.dtype:
                return found
            for number, file in enumerate(files):
                row = rows.get(file)
                if row is not None and 0 <= row < len(saved):
                    pixels[number] = saved[row]
                    found[number] = True
        except (OSError, ValueError, EOFError, KeyError, TypeError):  # missing or damaged: decode all images again
            found[:] = False
        return found

    def save(self, pixels: np.memmap, files: Sequence[FileState], decoded: Bool[np.ndarray, " image"]) -> None:
        """Save the images that are marked as decoded; on a full disk nothing is saved."""
        before, name = self._files(), f"{self._name}-{secrets.token_hex(4)}.npy"
        pixels.flush()
        with suppress(OSError):
            try:
                os.link(str(pixels.filename), self._folder / name)
            except OSError:  # a file system without links
                shutil.copyfile(str(pixels.filename), self._folder / name)
            rows = [[*files[row], row] for row in np.flatnonzero(decoded).tolist()]
            write_json_whole(self._index, {"pixels": name, "files": rows})
            _remove(before)

    def remove(self) -> None:
        """Delete the saved images, once the array is complete."""
        _remove([*self._files(), self._index])

    def _files(self) -> list[Path]:
        return list(self._folder.glob(f"{self._name}-*.npy"))


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
