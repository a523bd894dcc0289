"""Arrays in a storage that several machines reach, each in shards: some of its rows in one Arrow file.

Below ``arrays/NAME``, where the name is that of the array in a local cache, lie ``manifest.json`` (what the array is,
and how it is cut) and, a shard, ``shard_00000.arrow`` with its record ``shard_00000.json``. A shard counts when its
record is there, which is written last: what a killed process leaves is made again, and nothing else is. Any program
that knows Arrow reads the files: one column of the canonical type ``arrow.fixed_shape_tensor``, a row an image or a
caption.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import xxhash

import rayvldd
from rayvldd.data.array_cache import ArrayDescription
from rayvldd.errors import StoreError
from rayvldd.storage.json_files import json_text, parsed
from rayvldd.storage.storage import Storage

FORMAT = 1
"""Version of the layout of an array; one of another version is refused."""

SHARD_BYTES = 32 * 2**20
"""Rows that are cut off together, uncompressed: what a process holds at a time, and what an interruption costs."""

_REMAKE = "rayvldd prepare STUDY.yaml, with the same --store"


class ArrayShards:
    """The arrays of a storage; it travels to other processes by pickle, and any number of them may write."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def begin(self, array: ArrayDescription, unit: int = 1) -> int:
        """Say how an array is cut, where nobody has yet; return the rows of a shard.

        Args:
            array: The array.
            unit: Rows that are made together: a shard holds a whole number of units.

        Raises:
            StoreError: when the storage cannot be used, or another version of the layout lies there.
        """
        there = self._rows_a_shard(array)
        if there is not None:
            return there
        row_bytes = np.dtype(array.dtype).itemsize * int(np.prod(array.shape[1:]))
        rows = max(1, SHARD_BYTES // (row_bytes * unit)) * unit
        manifest = {"format": FORMAT, "rayvldd_version": rayvldd.__version__, "array": array.as_dict()}
        self.storage.swap(_manifest(array), None, json_text({**manifest, "rows_a_shard": rows}))
        return self._rows_a_shard(array) or rows  # another process may have been quicker

    def missing(self, array: ArrayDescription) -> list[int]:
        """The numbers of the shards that nobody has finished, of an array that was begun."""
        rows = self._rows_a_shard(array)
        present = set(self.storage.names(_folder(array)))
        numbers = range(num_shards(array, rows)) if rows else ()
        return [n for n in numbers if not {_shard(array, n), _record(array, n)} <= present]

    def write(self, array: ArrayDescription, number: int, rows: np.ndarray) -> None:
        """Keep one shard.

        Raises:
            StoreError: when the storage cannot be written.
        """
        schema = _schema(array)
        content = _as_file(rows, schema)
        record = {"rows": len(rows), "bytes": len(content), "checksum": xxhash.xxh3_128_hexdigest(content)}
        # A shard that is made again loses its record first, or the old checksum would stand beside the new file.
        self.storage.delete(_record(array, number))
        self.storage.write(_shard(array, number), content)
        self.storage.write(_record(array, number), json_text(record))

    def parts(self, array: ArrayDescription) -> Iterator[np.ndarray] | None:
        """The rows of an array, a shard at a time, each compared with its checksum; None where there is no such array.

        Raises:
            StoreError: when shards are missing; and while it is read, when one is damaged.
        """
        rows = self._rows_a_shard(array)
        if rows is None:
            return None
        missing = self.missing(array)
        if missing:
            raise StoreError(
                f"{self.storage.uri}: {_folder(array)}: {len(missing)} of {num_shards(array, rows)} shards are not "
                f"there; allowed: an array with all of them, or none",
                next_command=f"{_REMAKE} (makes what is missing)",
            )
        return (self._read(array, number, rows) for number in range(num_shards(array, rows)))

    def _read(self, array: ArrayDescription, number: int, rows_a_shard: int) -> np.ndarray:
        content, record = self.storage.read(_shard(array, number)), parsed(self.storage.read(_record(array, number)))
        if content is None or record is None:
            self._refuse(array, number, "it is not there any more")
        if xxhash.xxh3_128_hexdigest(content) != record.get("checksum"):
            self._refuse(array, number, "its checksum is not the recorded one")
        table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        start = number * rows_a_shard
        expected = min(rows_a_shard, array.shape[0] - start)
        if table.schema != _schema(array) or len(table) != expected:
            self._refuse(
                array, number, f"holds {len(table)} rows of {table.schema.types}; allowed: {expected} of its own"
            )
        rows: np.ndarray = table.column(0).combine_chunks().to_numpy_ndarray()
        return rows

    def _refuse(self, array: ArrayDescription, number: int, why: str) -> NoReturn:
        """Make a damaged shard count as missing, and say so."""
        self.storage.delete(_record(array, number))
        raise StoreError(
            f"{self.storage.uri}: {_shard(array, number)}: damaged: {why}; it will not be used",
            next_command=f"{_REMAKE} (makes this shard again)",
        )

    def _rows_a_shard(self, array: ArrayDescription) -> int | None:
        content = self.storage.read(_manifest(array))
        if content is None:
            return None
        manifest: dict[str, Any] = parsed(content) or {}
        rows = manifest.get("rows_a_shard")
        if manifest.get("format") != FORMAT or not isinstance(rows, int) or rows < 1:
            raise StoreError(
                f"{self.storage.uri}: {_manifest(array)}: format {manifest.get('format')!r} by rayvldd "
                f"{manifest.get('rayvldd_version', 'of unknown version')}; allowed: {FORMAT}",
                next_command=f"move that folder away, then: {_REMAKE}",
            )
        return rows


def num_shards(array: ArrayDescription, rows_a_shard: int) -> int:
    """How many shards an array has."""
    return -(-array.shape[0] // rows_a_shard)


def _schema(array: ArrayDescription) -> pa.Schema:
    row = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(array.dtype)), array.shape[1:])
    return pa.schema([pa.field(array.kind, row)])


def _as_file(rows: np.ndarray, schema: pa.Schema) -> bytes:
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(rows))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _folder(array: ArrayDescription) -> str:
    return f"arrays/{array.name}"


def _manifest(array: ArrayDescription) -> str:
    return f"{_folder(array)}/manifest.json"


def _shard(array: ArrayDescription, number: int) -> str:
    return f"{_folder(array)}/shard_{number:05d}.arrow"


def _record(array: ArrayDescription, number: int) -> str:
    return f"{_folder(array)}/shard_{number:05d}.json"
