"""Atomic file writes: readers see the complete old file or the complete new one, even after a crash."""

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file atomically; after a crash the path holds the old file or the new one."""
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; after a crash the path holds the old file or the new one."""
    with file_written_whole(path) as part:
        part.write_bytes(content)


@contextmanager
def file_written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside the target; it is synced and renamed when the block ends without an error.

    The temporary name is random, so two processes that write the same file do not disturb each other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_beside(path)
    try:
        yield part
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def part_beside(path: Path) -> Path:
    """Return a random temporary name beside a file, used by no other process."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def put_in_place(part: Path, path: Path) -> None:
    """Rename a finished file; the file is synced before and its folder after, so a power failure loses neither."""
    sync_file(part)
    part.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush the content of a file to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_below(folder: Path) -> None:
    """Flush all files and folders below a folder to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync_file(path)
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, if its file system supports that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:  # the user may not open this folder
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems do not know this for folders
        pass
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file and flush it to disk; after a crash only this line may be incomplete.

    A last line that an earlier crash has cut off is ended first, so that it does not swallow the new one.
    """
    is_new = not path.exists()
    with path.open("a+b") as file:
        cut_off = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            cut_off = file.read(1) != b"\n"
        file.write(b"\n" * cut_off + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def copy_folder_whole(source: Path, target: Path) -> None:
    """Copy a folder, replacing any earlier one; after a crash the target is complete or missing.

    The copy is made and synced under a temporary name beside the target. Temporary names of killed processes are
    removed, so the caller must be the only one that writes this target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = part_beside(target)
    try:
        shutil.copytree(source, part)
        sync_below(part)
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(target.parent)
