"""Arrays in a shared storage, split into shards of consecutive rows, one Arrow file each.

``arrays/NAME``, with the array's name in the local cache, contains ``manifest.json`` (description of the array and
rows per shard) and, for each shard, ``shard_00000.arrow`` and its record ``shard_00000.json``. The record is written
last; a shard without a record is incomplete and is made again. The files can be read with any Arrow library: they
have one column of the canonical type ``arrow.fixed_shape_tensor`` and one row per image or caption.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import xxhash

import rayvldd
from rayvldd.data.array_cache import ArrayDescription
from rayvldd.data.decoded_images import FileState
from rayvldd.errors import OutageError, StoreError
from rayvldd.storage.json_files import json_text, parsed
from rayvldd.storage.storage import Storage

FORMAT = 1
"""Version of the layout; arrays with another version are rejected."""

SHARD_BYTES = 32 * 2**20
"""Uncompressed size of a shard: bounds the memory of a process and the work that is lost by an interruption."""

_FILES = "files.json"
"""File of an array that cannot be finished, with the image file of each row."""

_REMAKE = "rayvldd prepare STUDY.yaml, with the same --store"


class ArrayShards:
    """The arrays of a storage. It can be pickled, and several processes may write at the same time."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def begin(self, array: ArrayDescription, unit: int = 1) -> int:
        """Write the array's manifest if it is missing; return the number of rows per shard.

        Args:
            array: The array.
            unit: Rows that are made together; a shard has a whole number of units.

        Raises:
            StoreError: if the storage cannot be used, or its array has another version of the layout.
        """
        existing = self.rows_per_shard(array)
        if existing is not None:
            return existing
        row_bytes = np.dtype(array.dtype).itemsize * int(np.prod(array.shape[1:]))
        rows = max(1, SHARD_BYTES // (row_bytes * unit)) * unit
        manifest = {"format": FORMAT, "rayvldd_version": rayvldd.__version__, "array": array.as_dict()}
        self.storage.swap(_manifest(array), None, json_text({**manifest, "rows_per_shard": rows}))
        return self.rows_per_shard(array) or rows  # another process may have written it first

    def missing(self, array: ArrayDescription) -> list[int]:
        """Numbers of the unfinished shards of an array that has a manifest."""
        rows = self.rows_per_shard(array)
        return [] if rows is None else self._missing(array, rows)

    def _missing(self, array: ArrayDescription, rows_per_shard: int) -> list[int]:
        present = set(self.storage.names(_folder(array)))
        numbers = range(num_shards(array, rows_per_shard))
        return [n for n in numbers if not {_shard(array, n), _record(array, n)} <= present]

    def write(self, array: ArrayDescription, number: int, rows: np.ndarray) -> None:
        """Write one shard.

        Args:
            array: The array.
            number: Number of the shard, from 0.
            rows: Its rows, ``[row, *array.shape[1:]]``.

        Raises:
            StoreError: if the storage cannot be written.
        """
        schema = _schema(array)
        content = _as_file(rows, schema)
        record = {"rows": len(rows), "bytes": len(content), "checksum": xxhash.xxh3_128_hexdigest(content)}
        # Delete an old record first: its checksum would not be that of the new file.
        self.storage.delete(_record(array, number))
        self.storage.write(_shard(array, number), content)
        self.storage.write(_record(array, number), json_text(record))

    def parts(self, array: ArrayDescription) -> Iterator[np.ndarray] | None:
        """Yield the rows of an array, one shard at a time, with verified checksums; None if there is no such array.

        Raises:
            StoreError: if shards are missing; during iteration, if a shard is damaged.
        """
        rows = self.rows_per_shard(array)
        if rows is None:
            return None
        missing = self._missing(array, rows)
        if missing:
            raise StoreError(
                f"{self.storage.uri}: {_folder(array)}: {len(missing)} of {num_shards(array, rows)} shards are "
                f"missing; allowed: an array with all shards, or none",
                next_command=f"{_REMAKE} (makes the missing shards)",
            )
        return (self._read(array, number, rows) for number in range(num_shards(array, rows)))

    def kept(self, array: ArrayDescription, number: int) -> np.ndarray | None:
        """The rows of one finished shard; None if it is missing or damaged."""
        rows = self.rows_per_shard(array)
        try:
            return None if rows is None or number in self._missing(array, rows) else self._read(array, number, rows)
        except StoreError:
            return None

    def note_unfinished(self, array: ArrayDescription, files: Sequence[FileState]) -> None:
        """Record the file of each row of an array that cannot be finished, so that its shards can be used by others."""
        self.storage.write(
            _files(array), json_text({"array": array.as_dict(), "files": [list(file) for file in files]})
        )

    def unfinished(self, array: ArrayDescription) -> Iterator[tuple[ArrayDescription, list[FileState]]]:
        """Yield the arrays that differ from this one only in their files and cannot be finished, with the files."""
        fixed = {name: value for name, value in array.key.items() if name != "files"}
        for name in self.storage.names("arrays"):
            if not name.endswith(f"/{_FILES}"):
                continue
            noted: Any = parsed(self.storage.read(name)) or {}
            try:
                of = noted["array"]
                other = ArrayDescription(of["kind"], of["key"], tuple(of["shape"]), of["dtype"])
                files = [(str(image), int(size), int(time)) for image, size, time in noted["files"]]
            except (KeyError, TypeError, ValueError):  # damaged: its images are decoded again
                continue
            same = {name: value for name, value in other.key.items() if name != "files"} == fixed
            same = same and other.kind == array.kind and other.shape[1:] == array.shape[1:]
            if same and other.name != array.name and self._is_unfinished(other):
                yield other, files

    def drop_unfinished(self, array: ArrayDescription, files: Sequence[FileState]) -> None:
        """Delete the unfinished arrays whose images are all in this one, once this one is finished.

        Arrays of other datasets are kept: their images would have to be decoded again.

        Args:
            array: The finished array.
            files: The file of each of its rows.
        """
        self.storage.delete(_files(array))  # it could not be finished earlier
        present = set(files)
        for other, of_rows in list(self.unfinished(array)):
            if present.issuperset(of_rows[row] for row in self._finished_rows(other) if row < len(of_rows)):
                # The list of files last: after an interruption the rest is found again.
                for name in sorted(self.storage.names(_folder(other)), key=lambda name: name == _files(other)):
                    self.storage.delete(name)

    def _is_unfinished(self, array: ArrayDescription) -> bool:
        try:
            rows = self.rows_per_shard(array)
            return rows is None or bool(self._missing(array, rows))
        except OutageError:
            raise
        except StoreError:  # of another version of the layout: neither used nor deleted
            return False

    def _finished_rows(self, array: ArrayDescription) -> list[int]:
        """Rows of the finished shards of an array; none if it has no manifest."""
        size = self.rows_per_shard(array)
        if size is None:
            return []
        missing = set(self._missing(array, size))
        return [row for row in range(array.shape[0]) if row // size not in missing]

    def _read(self, array: ArrayDescription, number: int, rows_per_shard: int) -> np.ndarray:
        content, record = self.storage.read(_shard(array, number)), parsed(self.storage.read(_record(array, number)))
        if content is None or record is None:
            self._refuse(array, number, "it was deleted")
        if xxhash.xxh3_128_hexdigest(content) != record.get("checksum"):
            self._refuse(array, number, "its checksum differs from the recorded one")
        table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        start = number * rows_per_shard
        expected = min(rows_per_shard, array.shape[0] - start)
        if table.schema != _schema(array) or len(table) != expected:
            self._refuse(
                array, number, f"has {len(table)} rows of {table.schema.types}; allowed: {expected} of its own type"
            )
        rows: np.ndarray = table.column(0).combine_chunks().to_numpy_ndarray()
        return rows

    def _refuse(self, array: ArrayDescription, number: int, why: str) -> NoReturn:
        """Delete the record of a damaged shard, so that it is made again, and raise."""
        self.storage.delete(_record(array, number))
        raise StoreError(
            f"{self.storage.uri}: {_shard(array, number)}: damaged: {why}; it will not be used",
            next_command=f"{_REMAKE} (makes this shard again)",
        )

    def rows_per_shard(self, array: ArrayDescription) -> int | None:
        """Number of rows per shard of an array; None if it has no manifest."""
        content = self.storage.read(_manifest(array))
        if content is None:
            return None
        manifest = parsed(content) or {}
        rows = manifest.get("rows_per_shard")
        if manifest.get("format") != FORMAT or not isinstance(rows, int) or rows < 1:
            raise StoreError(
                f"{self.storage.uri}: {_manifest(array)}: format {manifest.get('format')!r} by rayvldd "
                f"{manifest.get('rayvldd_version', 'of unknown version')}; allowed: {FORMAT}",
                next_command=f"move that folder away, then: {_REMAKE}",
            )
        return rows


def num_shards(array: ArrayDescription, rows_per_shard: int) -> int:
    """Number of shards of an array."""
    return -(-array.shape[0] // rows_per_shard)


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


def _files(array: ArrayDescription) -> str:
    return f"{_folder(array)}/{_FILES}"


def _shard(array: ArrayDescription, number: int) -> str:
    return f"{_folder(array)}/shard_{number:05d}.arrow"


def _record(array: ArrayDescription, number: int) -> str:
    return f"{_folder(array)}/shard_{number:05d}.json"
