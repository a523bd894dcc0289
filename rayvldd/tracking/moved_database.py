"""Addresses of artifacts in the embedded MLflow of a workspace that was moved or copied.

MLflow stores absolute addresses. A tag of the experiment says that its artifacts are in the workspace. Where they are
not at their address any more, all addresses below that folder are changed in one transaction; no other ones are.
"""

import logging
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rayvldd.errors import message_of
from rayvldd.tracking.sessions import living_sessions
from rayvldd.workspace import Workspace, workspace_of_database

logger = logging.getLogger(__name__)

IN_WORKSPACE = {"rayvldd.artifacts": "workspace"}
"""Tag of an experiment whose artifacts are in the workspace of its database."""
EXPERIMENT = "rayvldd"
"""Name of the package's experiment; the name of a further one continues with a space and the place of its artifacts."""
_WAIT_S = 20.0
"""Seconds to wait for another process that writes to the database."""
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns with addresses; databases of older releases of MLflow lack some."""
_PLACES = """
SELECT DISTINCT experiments.artifact_location, tag.value IS NOT NULL FROM experiments
LEFT JOIN experiment_tags AS tag ON tag.experiment_id = experiments.experiment_id AND tag.key = ? AND tag.value = ?
WHERE experiments.artifact_location IS NOT NULL
AND (tag.value IS NOT NULL OR experiments.name = ? OR substr(experiments.name, 1, ?) = ?)
"""


@dataclass(frozen=True)
class _Move:
    """A former folder of artifacts and the present one."""

    before: Path
    after: Path

    def applied(self, address: str) -> str:
        """The present address; that of something else is returned as it is."""
        place = _local_path(address)
        if place is None or not place.is_relative_to(self.before):
            return address
        now = self.after / place.relative_to(self.before)
        return str(now) if address.startswith("/") else now.as_uri()


def follow_move(uri: str) -> None:
    """Change the addresses of artifacts if a URI names the database of a workspace that was moved or copied.

    Nothing is changed while a process logs to the workspace, which may see it at another path. A database that cannot
    be written is left as it is, and a warning is logged; :func:`present_address` finds its artifacts all the same.

    Args:
        uri: Tracking URI; nothing happens for a server, and for a database outside of a workspace.
    """
    workspace = workspace_of_database(uri)
    moves = _moves_in(workspace) if workspace else []
    if workspace is None or not moves:
        return
    file = workspace.database
    if living_sessions(workspace.open_runs):
        logger.warning(
            "%s: the workspace was moved from %s while a process logs to it; addresses of artifacts are changed by the "
            "next command after its end",
            file,
            moves[0].before.parent,
        )
        return
    try:
        with closing(_opened(file, "rw")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            _rename(connection, _moves(connection, workspace.artifacts))  # others may have changed them by now
            connection.commit()
    except sqlite3.Error as error:
        logger.warning(
            "%s: the workspace was moved from %s, and the addresses of artifacts cannot be changed (%s): rayvldd finds "
            "them, but MLflow's pages show none. Allowed: a workspace that you may write to",
            file,
            moves[0].before.parent,
            message_of(error),
        )


def present_address(uri: str, address: str) -> str:
    """The address of artifacts in a workspace that was moved, and whose database cannot be changed.

    Args:
        uri: Tracking URI.
        address: An address from there.
    """
    workspace = workspace_of_database(uri)
    return _after(_moves_in(workspace), address) if workspace else address


def is_folder_of(address: str, folder: Path) -> bool:
    """Whether an address is that of a folder, also by another path."""
    place = _local_path(address)
    if place is None:
        return False
    with suppress(OSError):
        return place.samefile(folder)
    return place == folder.absolute()


def _moves_in(workspace: Workspace) -> list[_Move]:
    """The former folders of artifacts, if the database can be read; its other users say why it cannot."""
    if not workspace.database.is_file():
        return []
    try:
        with closing(_opened(workspace.database, "ro")) as connection:
            return _moves(connection, workspace.artifacts)
    except sqlite3.Error:
        return []


def _opened(file: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True, timeout=_WAIT_S, isolation_level=None)


def _moves(connection: sqlite3.Connection, folder: Path) -> list[_Move]:
    names = (EXPERIMENT, len(EXPERIMENT) + 1, f"{EXPERIMENT} ")
    (tag,) = IN_WORKSPACE.items()
    rows = connection.execute(_PLACES, (*tag, *names)).fetchall()
    found = {}
    for address, is_tagged in rows:
        place = _local_path(address)
        if place is None or place.name != folder.name or is_folder_of(address, folder):
            continue
        if _has_moved(connection, place, folder, bool(is_tagged)):
            found[place] = _Move(place, folder)
    return list(found.values())


def _has_moved(connection: sqlite3.Connection, before: Path, folder: Path, is_tagged: bool) -> bool:
    """Whether artifacts of a former folder are in the present one.

    An experiment of an earlier release has no tag, and may be one that a user made for a folder elsewhere. A tagged
    one without artifacts here is left as it is while the former folder exists: only the database was copied.
    """
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    places = [_local_path(address) for (address,) in connection.execute("SELECT artifact_uri FROM runs")]
    runs = {place.relative_to(before).parts[0] for place in places if place and before in place.parents}
    return bool(runs & present) or (is_tagged and (not runs or not before.is_dir()))


def _rename(connection: sqlite3.Connection, moves: list[_Move]) -> None:
    connection.create_function("present", 1, lambda address: _after(moves, address), deterministic=True)
    for table, column in _COLUMNS:
        if column in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
            change = f"UPDATE {table} SET {column} = present({column})"
            connection.execute(f"{change} WHERE {column} IS NOT NULL AND present({column}) != {column}")


def _after(moves: list[_Move], address: str) -> str:
    for move in moves:
        address = move.applied(address)
    return address


def _local_path(address: str) -> Path | None:
    """The folder of an address on this machine; None for a storage elsewhere."""
    if address.startswith("/"):
        return Path(address)
    with suppress(ValueError):  # nothing that is an address
        parts = urlsplit(address)
        if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
            return Path(unquote(parts.path))
    return None
