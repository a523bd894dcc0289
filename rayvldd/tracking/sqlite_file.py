"""The SQLite file of an embedded MLflow: made whole or not at all, and tried before it is used."""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from rayvldd.storage.atomic import sync_folder
from rayvldd.workspace import database_uri

_WAIT_S = 10.0
"""How long a file that another process writes to is waited for."""


def ready_sqlite(file: Path) -> None:
    """Make the database if there is none, and try it as a writer.

    MLflow makes about fifty tables over some seconds, and never comes to terms with a file in which it was killed
    meanwhile. So they are made in a file beside it, which then gets the name. A file that a killed process has left
    half made, without a single run, is moved aside. Trying it here is quicker, too: MLflow would try ten times, for
    two minutes, before it says what is wrong.

    Raises:
        OSError: when the folder cannot be written.
        sqlite3.Error: when the file is no database or cannot be written.
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
    """The caller holds the lock, so that parts that are there belong to processes that died."""
    from mlflow import MlflowClient

    for left in file.parent.glob(f".{file.name}.*.part*"):
        left.unlink(missing_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        store = MlflowClient(tracking_uri=database_uri(part))._tracking_client.store
        store._dispose_engine()  # closes its connections: the file is on the disk, with no journal beside it
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(file.parent)


def _is_half_made(file: Path) -> bool:
    """Whether somebody died while the tables were made. What holds a run, or an experiment of anybody's, is whole."""
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
