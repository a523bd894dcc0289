"""New folders for exports: they appear complete or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from rayvldd.errors import StoreError
from rayvldd.storage.atomic import part_beside, sync_below


def check_free(folder: Path) -> None:
    """Check that a folder can be used for an export.

    Raises:
        StoreError: when it is a file or is not empty.
    """
    try:
        holds = f"it holds {next(folder.iterdir()).name}"
    except (StopIteration, FileNotFoundError):
        return
    except NotADirectoryError:
        holds = "it is a file"
    except OSError as error:
        holds = error.strerror or str(error)
    raise StoreError(
        f"{folder}: not free for an export: {holds}; allowed: a folder that is empty or does not exist yet",
        next_command="the same command with another FOLDER",
    )


@contextmanager
def writable_folder(folder: Path, option: str) -> Iterator[None]:
    """Create the folder of an option before the work of the block; remove it after the block if it is new and empty.

    Raises:
        StoreError: if it cannot be created or written.
    """
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"{option} {folder}: cannot be written: {reason}; allowed: a folder that you may write to",
            next_command=f"the same command with another {option}",
        ) from None
    try:
        yield
    finally:
        if not existed:
            with suppress(OSError):  # it has a content
                folder.rmdir()


@contextmanager
def new_folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``, which takes its place when the block ends without an error.

    Args:
        folder: A folder that does not exist yet or is empty.

    Raises:
        StoreError: when it is not free or cannot be written.
    """
    check_free(folder)
    part = part_beside(folder)
    try:
        part.mkdir(parents=True)
        yield part
        sync_below(part)
        part.rename(folder)  # also replaces an empty folder; fails if files were added meanwhile
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written: {error.strerror or error}; allowed: a folder that you may write to",
            next_command="the same command with another FOLDER",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
