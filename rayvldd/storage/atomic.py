"""Files that readers see whole or not at all, whatever dies while they are written."""

import os
import secrets
from pathlib import Path


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file that readers see whole or not at all, whatever dies in between."""
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a file that readers see whole or not at all, whatever dies in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
