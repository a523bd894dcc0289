"""Rules of the test tiers: tests import helpers and no other test, and the fast tier starts no service."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hosts import remove_cached_configs
from helpers.imports_of_files import imports_of
from helpers.paths import ROOT

TIERS = ("unit", "integration", "system")
TEST_FILES = [file for tier in TIERS for file in sorted((ROOT / "tests" / tier).rglob("*.py"))]
UNIT_FILES = [file for file in TEST_FILES if "unit" in file.relative_to(ROOT / "tests").parts[:1]]
SHARED = sorted((ROOT / "tests" / "helpers").rglob("*.py"))

SERVICE_FIXTURES = {"local_ray", "kept_actors", "s3", "s3_of_the_session", "storage"}
"""Fixtures of tests/conftest.py that start a Ray or an S3."""


def modules_of(file: Path) -> list[str]:
    """The modules that a file imports, without repetitions."""
    return list(dict.fromkeys(found.module for found in imports_of(file)))


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


def test_no_test_is_imported() -> None:
    found = [f"{file}: {module}" for file in [*TEST_FILES, *SHARED] for module in modules_of(file) if is_test(module)]
    assert not found, "what tests share is in tests/helpers"


def test_the_unit_tier_starts_no_service() -> None:
    """A test on Ray or S3 is in tests/integration."""
    for file in UNIT_FILES:
        assert not SERVICE_FIXTURES & set(parameters_of(file)), file
        assert not {"helpers.s3_server", "moto", "moto.server"} & set(modules_of(file)), file


def test_no_test_leaves_a_temporary_folder() -> None:
    for file in [*TEST_FILES, *SHARED]:
        made = re.findall(r"\bmk[ds]temp\(", file.read_text(encoding="utf-8"))
        assert not made, f"{file}: take tmp_path or tempfile.TemporaryDirectory, which are removed"


def test_cached_cluster_files_of_simulated_hosts_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own, other = tmp_path / "ray-config-1", tmp_path / "ray-config-2"
    for file, key in ((own, tmp_path / "hosts" / "key"), (other, tmp_path / "elsewhere" / "key")):
        file.write_text(f'{{"auth": {{"ssh_private_key": "{key}"}}}}', encoding="utf-8")
    remove_cached_configs(tmp_path / "hosts")
    assert not own.exists() and other.exists()


def test_an_import_of_a_test_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    lines = ["from helpers.tasks import load", "def f(s3):", "    from test_search import Toy", "    import conftest"]
    file.write_text("\n".join(lines))
    assert [module for module in modules_of(file) if is_test(module)] == ["test_search", "conftest"]
    assert list(parameters_of(file)) == ["s3"]
