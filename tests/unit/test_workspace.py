"""The addresses of the workspace's database."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from rayvldd.workspace import Workspace, database_file, database_uri


@pytest.mark.parametrize("name", ["plain", "with space", "feature%2Fnew", "100%", "what?", "a#b", "größe", "a?b%3Fc"])
def test_the_database_of_any_folder_is_found_by_sqlalchemy_and_by_us(tmp_path: Path, name: str) -> None:
    workspace = Workspace(tmp_path / name)
    workspace.check_writable()
    file = tmp_path / name / "mlflow.db"
    assert database_file(workspace.tracking_uri) == file
    with create_engine(workspace.tracking_uri).begin() as connection:
        connection.execute(text("CREATE TABLE here (x INTEGER)"))
    assert sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True).execute("SELECT * FROM here").fetchall() == []
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_an_ordinary_folder_has_an_ordinary_address(tmp_path: Path) -> None:
    assert database_uri(tmp_path / "a b" / "mlflow.db") == f"sqlite:///{tmp_path}/a b/mlflow.db"


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite:///b.db", Path("b.db")),
        ("sqlite:////a%2Fb/c.db?timeout=3", Path("/a/b/c.db")),
        ("sqlite+pysqlite:////a%252Fb/c.db", Path("/a%2Fb/c.db")),
        ("sqlite://", None),
        ("http://host/x", None),
        ("/a/b.db", None),
    ],
)
def test_which_addresses_name_a_file(uri: str, file: Path | None) -> None:
    assert database_file(uri) == file
