"""Tries of the models of a study that passed: one small file of the workspace for each."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import ClassVar

from rayvldd.errors import StoreError, message_of
from rayvldd.records.form import Record

logger = logging.getLogger(__name__)

_FOLDER = "passed_tries"


class PassedTry(Record):
    """A try that passed, and what its outcome depends on."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "a try of models that passed"
    remedy: ClassVar[str] = "delete {file}, then the same command, which tries them again"

    tried: str
    """Date, as YYYY-MM-DD."""
    ingredients: dict[str, str]
    """Hash of everything that the outcome depends on, by name."""


def passed_before(workspace: Path, key: str) -> str | None:
    """The date of a try with this key; None if there is none, or its file cannot be read.

    Args:
        workspace: Folder of the workspace.
        key: Hash of everything that the outcome depends on.
    """
    with suppress(StoreError):  # it is then tried again
        file = _file(workspace, key)
        return PassedTry.read(file).tried if file.is_file() else None
    return None


def note_passed(workspace: Path, key: str, ingredients: Mapping[str, str]) -> None:
    """Note that a try passed today; a note that cannot be written is logged.

    Args:
        workspace: Folder of the workspace.
        key: Hash of everything that the outcome depends on.
        ingredients: Its parts, by name.
    """
    try:
        file = _file(workspace, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        PassedTry(tried=date.today().isoformat(), ingredients=dict(ingredients)).write(file)
    except OSError as error:  # e.g. a full disk
        logger.warning("%s: the next check tries the models again: %s", workspace / _FOLDER, message_of(error))


def _file(workspace: Path, key: str) -> Path:
    return workspace / _FOLDER / f"{key}.json"
