"""A storage for experts below one folder of a local or shared file system."""

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from rayvldd.errors import StoreError
from rayvldd.storage.atomic import write_bytes_whole
from rayvldd.storage.storage import KeepsParts, Storage
from rayvldd.storage.tensor_files import MappedTensors, TensorSource

_LEFTOVER_AGE_S = 3600.0
"""A part file this old belongs to a process that died: no write takes that long."""


_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part(\.\d+\.tmp)?")
"""Name of a file that is being written."""


class FolderStorage:
    """Files below a folder; a folder that several hosts see serves them all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()

    @property
    def uri(self) -> str:
        """Its address, as users write it."""
        return self.folder.as_uri()

    def names(self, folder: str = "") -> list[str]:
        """The names of all finished files below a folder, in full and sorted."""
        with self.translating_errors(f"{folder or '.'} could not be listed"):
            found = [Path(storage) / file for storage, _, files in os.walk(self.folder / folder) for file in files]
        names = [path.relative_to(self.folder).as_posix() for path in found if not path.name.startswith(".")]
        return sorted(names)

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where it is not there."""
        with self.translating_errors(f"{name} could not be read"):
            try:
                return (self.folder / name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where it is not there."""
        with self.translating_errors(f"{name} could not be read"):
            try:
                return (self.folder / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole, in the place of any that is there."""
        with self.translating_errors(f"{name} could not be written"):
            write_bytes_whole(self.folder / name, content)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old`` (None: if it is not there), and return whether it did."""
        with self.translating_errors(f"{name} could not be written"):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                if self.read(name) != old:
                    return False
                write_bytes_whole(path, new)
                return True

    def delete(self, name: str) -> None:
        """Remove a file, and the folders that this leaves empty."""
        path = self.folder / name
        with self.translating_errors(f"{name} could not be removed"):
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.folder:
                    return
                try:
                    parent.rmdir()
                except OSError:  # not empty, or no longer there
                    return

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Give a path beside the file's own to write to; it gets its name when the block ends without an error."""
        path = self.folder / name
        part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part")
        with self.translating_errors(f"{name} could not be written"):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _drop_leftovers(path.parent)
                yield part
                os.replace(part, path)
            finally:
                with suppress(OSError):  # where it could not even be made
                    part.unlink()

    def open_tensors(self, name: str) -> TensorSource:
        """Open a safetensors file, memory-mapped: processes of a machine share its pages."""
        with self.translating_errors(f"{name} could not be read"):
            return MappedTensors(self.folder / name)

    def forget_local_copy(self, name: str) -> bool:
        """There is none: the file itself is read."""
        return False

    def abandoned_parts(self) -> dict[str, int]:
        """Part files that nobody has written to for an hour, with their bytes."""
        old: dict[str, int] = {}
        with self.translating_errors("could not be listed"):
            for part in self.folder.rglob(".*.part*"):
                with suppress(FileNotFoundError):  # its writer was done
                    if _PART.fullmatch(part.name) and time.time() - part.stat().st_mtime > _LEFTOVER_AGE_S:
                        old[part.relative_to(self.folder).as_posix()] = part.stat().st_size
        return dict(sorted(old.items()))

    def drop_parts(self, parts: Iterable[str]) -> None:
        """Remove some of them."""
        for part in parts:
            self.delete(part)

    @contextmanager
    def translating_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.folder}: {what}: {error.strerror or error}; allowed: a folder that can be read and written, "
                f"with room for the file",
                next_command="mend that, then the same command: what is finished is kept",
            ) from error


def _drop_leftovers(folder: Path) -> None:
    for part in folder.glob(".*.part*"):
        with suppress(FileNotFoundError):  # another process was quicker
            if time.time() - part.stat().st_mtime > _LEFTOVER_AGE_S:
                part.unlink()


if TYPE_CHECKING:
    _storage: Storage = FolderStorage(Path())
    _keeps_parts: KeepsParts = FolderStorage(Path())
