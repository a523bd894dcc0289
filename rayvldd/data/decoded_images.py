"""Images of a split that was not decoded to its end, kept for the next try.

One damaged file among 100,000, or Ctrl-C, ends the making of an array. The array of the next try has another name,
since a file has changed; so what was decoded is found image by image.
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
from rayvldd.storage.json_files import parsed, write_json_whole

FileState = tuple[str, int, int]
"""Path, size and time of change of an image file."""


class DecodedImages:
    """A file of pixels in the cache's folder, and an index of which image is in which row."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        """Name the file; nothing is read yet.

        Args:
            folder: The cache's.
            key: How the images are decoded, and for which split.
        """
        self._folder = folder
        self._name = f"decoded-{fingerprint(dict(key))}"

    @property
    def _index(self) -> Path:
        return self._folder / f"{self._name}.json"

    def fill(
        self, pixels: UInt8[np.ndarray, "image 3 height width"], files: Sequence[FileState]
    ) -> Bool[np.ndarray, " image"]:
        """Copy the images that are there, and tell which these are."""
        found = np.zeros(len(files), dtype=bool)
        index = parsed(self._index.read_bytes()) if self._index.is_file() else None
        try:
            kept = np.load(self._folder / str((index or {})["pixels"]), mmap_mode="r")
            rows = {(str(path), int(size), int(time)): int(row) for path, size, time, row in (index or {})["files"]}
            if kept.shape[1:] != pixels.shape[1:] or kept.dtype != pixels.dtype:
                return found
            for number, file in enumerate(files):
                row = rows.get(file)
                if row is not None and 0 <= row < len(kept):
                    pixels[number] = kept[row]
                    found[number] = True
        except (OSError, ValueError, EOFError, KeyError, TypeError):  # nothing there, or damaged: all are decoded again
            found[:] = False
        return found

    def keep(self, pixels: np.memmap, files: Sequence[FileState], decoded: Bool[np.ndarray, " image"]) -> None:
        """Keep what has been decoded so far; on a full disk nothing is kept."""
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

    def drop(self) -> None:
        """Remove it, once the array is whole."""
        _remove([*self._files(), self._index])

    def _files(self) -> list[Path]:
        return list(self._folder.glob(f"{self._name}-*.npy"))


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
