"""Paths as users write them in studies, cluster files and commands."""

from pathlib import Path


def user_path(path: str | Path) -> Path:
    """A path as users write it: a leading ``~`` is their home folder.

    ``~name`` of a user that does not exist stays as it is; the error that no such file exists then names it.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
