"""Local files on their way to a storage that is not a folder, and what killed processes left of them."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from rayvldd.errors import StoreError


@contextmanager
def unfinished_file(folder: Path, name: str) -> Iterator[Path]:
    """Give a local path to write a file to, and remove it when the block ends, however it ends.

    Args:
        folder: On a disk of this machine; made if it is not there.
        name: The file's name in its storage; the last part becomes the local file's name.

    Raises:
        StoreError: when the folder cannot be written or is full.
    """
    token = secrets.token_hex(8)
    room = folder / token
    # The lock says that its process lives, whatever the clock says. The room is made under it, so that nobody finds a
    # room that has no lock yet.
    lock = FileLock(folder / f"{token}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _drop_leftovers(folder)
        with lock:
            try:
                room.mkdir()
                yield room / name.rpartition("/")[2]
            finally:
                shutil.rmtree(room, ignore_errors=True)
                with suppress(FileNotFoundError):
                    Path(lock.lock_file).unlink()
    except (OSError, SafetensorError) as error:
        raise local_fault(folder, error) from error


def local_fault(folder: Path, error: Exception) -> StoreError:
    """The error for a folder of this machine that cannot be used."""
    reason = getattr(error, "strerror", None) or error
    return StoreError(
        f"{folder}: cannot be written: {reason}; allowed: a folder on a disk of this machine with room for the file",
        next_command="free the space or the permission, then the same command again: what is finished is kept",
    )


def _drop_leftovers(folder: Path) -> None:
    for room in folder.iterdir():
        if not room.is_dir():
            continue
        lock = FileLock(folder / f"{room.name}.lock", timeout=0)
        with suppress(Timeout, OSError), lock:  # held: its process lives; gone: somebody else was quicker
            shutil.rmtree(room, ignore_errors=True)
            Path(lock.lock_file).unlink()
