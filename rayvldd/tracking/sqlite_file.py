"""The SQLite file of an embedded MLflow: created atomically, and checked before it is used."""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from rayvldd.storage.atomic import sync_folder
from rayvldd.workspace import database_uri

_WAIT_S = 10.0
"""Seconds to wait for a file that another process is writing to."""


def ready_sqlite(file: Path) -> None:
    """Create the database if there is none, and check that it can be written.

    MLflow creates about fifty tables over several seconds, and cannot use a file whose creation was interrupted.
    Therefore the tables are created in a temporary file, which is then renamed. An incomplete file of a killed process
    without any run is moved aside. Checking the file here is also faster: MLflow would retry ten times, for two
    minutes, before it reports an error.

    Raises:
        OSError: if the folder cannot be written.
        sqlite3.Error: if the file is not a database or cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if _is_missing(file) or _is_half_made(file):
        with FileLock(file.with_name(f".{file.name}.lock")):
            if not _is_missing(file) and _is_half_made(file):
                file.replace(file.with_name(f"{file.name}.half_made.{secrets.token_hex(4)}"))
            if _is_missing(file):
                _make(file)
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=_WAIT_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def _is_missing(file: Path) -> bool:
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def _make(file: Path) -> None:
    """Create the database; the caller must hold the lock, so existing partial files are those of dead processes."""
    from mlflow import MlflowClient

    for left in file.parent.glob(f".{file.name}.*.part*"):
        left.unlink(missing_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        store = MlflowClient(tracking_uri=database_uri(part))._tracking_client.store
        store._dispose_engine()  # closes its connections: the file is complete and has no journal
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(file.parent)


def _is_half_made(file: Path) -> bool:
    """Whether the creation of the tables was interrupted; a file with a run or a user's experiment is complete."""
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=_WAIT_S)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "experiments", "runs"} & tables:
            return False  # not MLflow's
        rows = {
            table: [row for (row,) in connection.execute(f"SELECT {column} FROM {table} LIMIT 2")]
            for table, column in (("runs", "run_uuid"), ("experiments", "name"), ("alembic_version", "version_num"))
            if table in tables
        }
    if rows.get("runs") or set(rows.get("experiments", ())) - {"Default"}:
        return False
    from mlflow.store.db.utils import _get_latest_schema_revision

    return rows.get("alembic_version") != [_get_latest_schema_revision()]
