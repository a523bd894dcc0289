"""Validation of file names from a storage, which anyone with write access may have chosen."""

import os
import re
from pathlib import Path

from rayvldd.errors import StoreError

_LONGEST_PART = 255
"""Maximum length of a path component in bytes."""
_HALVES = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
"""Halves of a character, which no file name can have; the other halves represent bytes that are no text."""


def stays_inside(name: str) -> bool:
    """Whether a relative path with ``/`` stays below the folder that it is appended to."""
    parts = name.split("/")
    return (
        "\0" not in name
        and not _HALVES.search(name)
        and "\\" not in name
        and all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= _LONGEST_PART for part in parts)
    )


def path_inside(folder: Path, name: str) -> Path:
    """The path of a name below a folder; the empty name is the folder.

    Raises:
        StoreError: if it is absolute or leads out of the folder, also by a symbolic link.
    """
    if name and not stays_inside(name):
        raise StoreError(
            f"{folder}: {name!r} is no name of a file below it; allowed: relative paths without '..'",
            next_command="find out who wrote that name into the storage, and remove the set that has it",
        )
    path = folder / name
    if name and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise StoreError(
            f"{path}: a symbolic link leads out of {folder}; allowed: files and folders in it",
            next_command="copy the target of the link into its place, or remove the link",
        )
    return path
