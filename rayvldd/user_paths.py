"""Paths as users write them in studies, cluster files and commands."""

import os
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """A path as users write it: a leading ``~`` is their home folder.

    ``~name`` of a user that does not exist stays as it is; the error that no such file exists then names it.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


# Before Python 3.14, the methods of Path raise an error for a name that is too long.


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder of this name; False for a name that cannot be one."""
    return os.path.exists(user_path(path))  # noqa: PTH110


def is_file(path: str | Path) -> bool:
    """Whether there is a file of this name; False for a name that cannot be one."""
    return os.path.isfile(user_path(path))  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of this name; False for a name that cannot be one."""
    return os.path.isdir(user_path(path))  # noqa: PTH112


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder with a name like the pattern, sorted; none if there is no such folder."""
    return sorted(folder.glob(pattern)) if is_folder(folder) else []
