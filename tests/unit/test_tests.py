"""Rules of the test tiers: tests import helpers and no other test, and the fast tier starts no service."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

TIERS = ("unit", "integration", "system")
TEST_FILES = [file for tier in TIERS for file in sorted((ROOT / "tests" / tier).rglob("*.py"))]
UNIT_FILES = [file for file in TEST_FILES if "unit" in file.relative_to(ROOT / "tests").parts[:1]]
SHARED = sorted((ROOT / "tests" / "helpers").rglob("*.py"))

SERVICE_FIXTURES = {"local_ray", "s3", "s3_of_the_session", "storage"}
"""Fixtures of tests/conftest.py that start a Ray or an S3."""


def imports_of(file: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{'.' * node.level}{node.module or ''}"


def is_test(module: str) -> bool:
    return any(part.startswith(("test_", "tests", "conftest", ".")) or part in TIERS for part in module.split("."))


def parameters_of(file: Path) -> Iterator[str]:
    """Yield the names of the parameters of every function: the fixtures of a test are among them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield from (argument.arg for argument in node.args.args)


def test_files_are_found_and_their_names_are_unique() -> None:
    assert len(UNIT_FILES) > 30 and len(TEST_FILES) > len(UNIT_FILES) and len(SHARED) > 5
    names = [file.name for file in TEST_FILES]
    assert sorted(names) == sorted(set(names)), "pytest imports test modules by their base name"


@pytest.mark.parametrize("file", [*TEST_FILES, *SHARED], ids=lambda file: str(file.relative_to(ROOT)))
def test_no_test_is_imported(file: Path) -> None:
    found = [module for module in imports_of(file) if is_test(module)]
    assert not found, "what tests share is in tests/helpers"


@pytest.mark.parametrize("file", UNIT_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_unit_tier_starts_no_service(file: Path) -> None:
    assert not SERVICE_FIXTURES & set(parameters_of(file)), "a test on Ray or S3 is in tests/integration"
    assert "helpers.s3_server" not in set(imports_of(file))


def test_an_import_of_a_test_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    lines = ["from helpers.tasks import load", "def f(s3):", "    from test_search import Toy", "    import conftest"]
    file.write_text("\n".join(lines))
    assert [module for module in imports_of(file) if is_test(module)] == ["test_search", "conftest"]
    assert list(parameters_of(file)) == ["s3"]
