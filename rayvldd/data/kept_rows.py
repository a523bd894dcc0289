"""Decoded images in the shards of arrays that were never finished, because some of their files are damaged.

Once a damaged file is replaced or left out, the array of the images has another name. Decoded images are found again
by name, size and modification time of each file, as recorded in ``files.json`` beside the shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from rayvldd.data.array_cache import ArrayDescription
from rayvldd.data.array_shards import ArrayShards
from rayvldd.data.decoded_images import FileState


@dataclass(frozen=True)
class KeptRows:
    """Rows of an unfinished array that hold images of another one."""

    array: ArrayDescription
    """The unfinished array."""
    rows: dict[int, int]
    """Row of the new array -> row of the unfinished one."""

    def part(self, start: int, stop: int) -> "KeptRows":
        """The same for the rows ``start`` to ``stop - 1`` of the new array, counted from ``start``."""
        return KeptRows(self.array, {new - start: old for new, old in self.rows.items() if start <= new < stop})

    def fill(
        self, shards: ArrayShards, pixels: UInt8[np.ndarray, "image 3 height width"]
    ) -> Bool[np.ndarray, " image"]:
        """Copy the rows into ``pixels``; return a mask of the images that were found."""
        found = np.zeros(len(pixels), dtype=bool)
        by_shard: dict[int, list[tuple[int, int]]] = {}
        rows_per_shard = shards.rows_per_shard(self.array) or 1
        for new, old in self.rows.items():
            by_shard.setdefault(old // rows_per_shard, []).append((new, old % rows_per_shard))
        for number, pairs in by_shard.items():
            kept = shards.kept(self.array, number)
            for new, old in pairs if kept is not None else ():
                assert kept is not None
                pixels[new], found[new] = kept[old], True
        return found


def find_kept_rows(shards: ArrayShards, array: ArrayDescription, files: Sequence[FileState]) -> KeptRows | None:
    """Look for an unfinished array with images of a new one; None if there is none.

    Args:
        shards: The storage of both.
        array: The new array.
        files: The file of each of its rows.
    """
    best: KeptRows | None = None
    for other, of_rows in shards.unfinished(array):
        rows = {file: row for row, file in enumerate(of_rows)}
        same = {new: rows[file] for new, file in enumerate(files) if file in rows}
        if same and (best is None or len(same) > len(best.rows)):
            best = KeptRows(other, same)
    return best
