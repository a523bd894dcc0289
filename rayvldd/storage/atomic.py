"""Atomic file writes: readers see the complete old file or the complete new one, even after a crash."""

import os
import secrets
from pathlib import Path


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file atomically; after a crash the path holds the old file or the new one."""
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; after a crash the path holds the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power failure may leave an empty file under the new name
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
