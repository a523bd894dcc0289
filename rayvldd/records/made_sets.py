"""Sets that were made in a workspace, wherever they are now: their cards name what a user of it has named before.

There is an empty file for each, named after the content of its card. The card has the checksums of the tensors.
"""

import hashlib
import logging
from pathlib import Path

from rayvldd.errors import message_of
from rayvldd.records.set_card import CARD

logger = logging.getLogger(__name__)

_FOLDER = "made_sets"


def note_made_set(workspace: Path, folder: Path) -> None:
    """Note that a set was made in a workspace; a note that cannot be written is logged, and the set is kept.

    Args:
        workspace: Folder of the workspace.
        folder: Folder of the set.
    """
    try:
        file = _note(workspace, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:  # e.g. a full disk
        logger.warning("%s: rayvldd evaluate will ask for --trust: %s", folder, message_of(error))


def is_made_set(workspace: Path, folder: Path) -> bool:
    """Whether a set, or the one that it is a copy of, was made in a workspace."""
    return (folder / CARD).is_file() and _note(workspace, folder).is_file()


def _note(workspace: Path, folder: Path) -> Path:
    return workspace / _FOLDER / hashlib.sha256((folder / CARD).read_bytes()).hexdigest()
