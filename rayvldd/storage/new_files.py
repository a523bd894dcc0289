"""Temporary local files for storages that upload them; leftovers of killed processes are removed."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from rayvldd.errors import OutageError


@contextmanager
def unfinished_file(folder: Path, name: str) -> Iterator[Path]:
    """Yield a local path to write a file to, and always remove the file when the block ends.

    Args:
        folder: Folder on a disk of this machine; created if it does not exist.
        name: Name of the file in its storage; the last component becomes the local file's name.

    Raises:
        OutageError: when the folder cannot be written or is full.
    """
    token = secrets.token_hex(8)
    room = folder / token
    # A held lock shows that its process is alive, independent of any clock. The folder is created under the lock, so
    # that no other process sees a folder without a lock.
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


def local_fault(folder: Path, error: Exception) -> OutageError:
    """Build the error for a local folder that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return OutageError(
        f"{folder}: cannot be written: {reason}; allowed: a folder on a disk of this machine with room for the file",
        next_command="free the space or the permission, then the same command again: finished work is kept",
    )


def _drop_leftovers(folder: Path) -> None:
    for room in folder.iterdir():
        if not room.is_dir():
            continue
        lock = FileLock(folder / f"{room.name}.lock", timeout=0)
        with suppress(Timeout, OSError), lock:  # timeout: its process is alive; missing: another process removed it
            shutil.rmtree(room, ignore_errors=True)
            Path(lock.lock_file).unlink()
