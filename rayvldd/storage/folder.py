"""Storage in one folder of a local or shared file system."""

import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from rayvldd.errors import OutageError
from rayvldd.storage.atomic import put_in_place, write_bytes_whole
from rayvldd.storage.names import path_inside
from rayvldd.storage.storage import KeepsParts, Storage
from rayvldd.storage.tensor_source import MappedTensors, TensorSource
from rayvldd.user_paths import exists, user_path

_LEFTOVER_AGE_S = 3600.0
"""Age at which a part file is considered abandoned; no write takes that long."""


_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")
"""Name of an unfinished file."""


class FolderStorage:
    """Files in a folder; a folder on a shared file system serves several hosts."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder).absolute()

    @property
    def uri(self) -> str:
        """Address, as users write it."""
        return self.folder.as_uri()

    def check_writable(self) -> None:
        """Check that files can be written to the folder, or to the one that it will be made in.

        Raises:
            OutageError: if not.
        """
        place = next(one for one in (self.folder, *self.folder.parents) if exists(one))
        with self.translating_errors("cannot be written"), tempfile.TemporaryFile(dir=place):
            pass

    def names(self, folder: str = "") -> list[str]:
        """Full names of all finished files below a folder, sorted."""
        with self.translating_errors(f"{folder or '.'} could not be listed"):
            below = path_inside(self.folder, folder)
            found = [Path(storage) / file for storage, _, files in os.walk(below) for file in files]
        names = [path.relative_to(self.folder).as_posix() for path in found if not path.name.startswith(".")]
        return sorted(names)

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if it does not exist."""
        with self.translating_errors(f"{name} could not be read"):
            try:
                return path_inside(self.folder, name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, name: str) -> bytes | None:
        """Read a small file; None if it does not exist."""
        with self.translating_errors(f"{name} could not be read"):
            try:
                return path_inside(self.folder, name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically, replacing any earlier one."""
        with self.translating_errors(f"{name} could not be written"):
            write_bytes_whole(path_inside(self.folder, name), content)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old`` (None: if it does not exist); return whether it was written."""
        with self.translating_errors(f"{name} could not be written"):
            path = path_inside(self.folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                if self.read(name) != old:
                    return False
                write_bytes_whole(path, new)
                return True

    def delete(self, name: str) -> None:
        """Remove a file and the folders that become empty."""
        path = path_inside(self.folder, name)
        with self.translating_errors(f"{name} could not be removed"):
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.folder:
                    return
                try:
                    parent.rmdir()
                except OSError:  # not empty, or already removed
                    return

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Yield a temporary path beside the target; the file is renamed when the block ends without an error."""
        path = path_inside(self.folder, name)
        part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part")
        with self.translating_errors(f"{name} could not be written"):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _drop_leftovers(path.parent)
                yield part
                put_in_place(part, path)
            finally:
                with suppress(OSError):  # if it could not be created
                    part.unlink()

    def open_tensors(self, name: str) -> TensorSource:
        """Open a safetensors file with memory mapping, so that processes on a machine share its pages."""
        with self.translating_errors(f"{name} could not be read"):
            return MappedTensors(path_inside(self.folder, name))

    def forget_local_copy(self, name: str) -> bool:
        """Return False: this storage reads the file itself and has no local copies."""
        return False

    def abandoned_parts(self) -> dict[str, int]:
        """Part files not written to for an hour, with their sizes in bytes."""
        old: dict[str, int] = {}
        with self.translating_errors("could not be listed"):
            for part in self.folder.rglob(".*.part*"):
                with suppress(FileNotFoundError):  # its writer finished
                    if _PART.fullmatch(part.name) and time.time() - part.stat().st_mtime > _LEFTOVER_AGE_S:
                        old[part.relative_to(self.folder).as_posix()] = part.stat().st_size
        return dict(sorted(old.items()))

    def drop_parts(self, parts: Iterable[str]) -> None:
        """Remove the given part files."""
        for part in parts:
            self.delete(part)

    @contextmanager
    def translating_errors(self, what: str) -> Iterator[None]:
        """Raise a fault of the file system as an error that names what failed."""
        try:
            yield
        except OSError as error:
            raise OutageError(
                f"{self.folder}: {what}: {error.strerror or error}; allowed: a folder that can be read and written, "
                f"with room for the file",
                next_command="fix this, then the same command: finished work is kept",
            ) from error


def _drop_leftovers(folder: Path) -> None:
    for part in folder.glob(".*.part*"):
        with suppress(FileNotFoundError):  # another process removed it first
            if time.time() - part.stat().st_mtime > _LEFTOVER_AGE_S:
                part.unlink()


if TYPE_CHECKING:
    _storage: Storage = FolderStorage(Path())
    _keeps_parts: KeepsParts = FolderStorage(Path())
