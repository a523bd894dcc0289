"""The commit of the code: of a clone, of the clone that was installed, or the one that the installer recorded."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rayvldd
from rayvldd.tracking.code_version import code_version

COMMIT = "mlflow.source.git.commit"
CHANGED = "rayvldd.changed_since_commit"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with one commit; its path has a character that a URL escapes."""
    package = tmp_path / "my clone" / "rayvldd"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("a = 1\n")
    (package / "data" / "reader.py").write_text("b = 2\n")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "First")
    return package.parent


@pytest.fixture
def site(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, with the package of the clone as it is imported."""
    site = tmp_path / "site"
    shutil.copytree(clone / "rayvldd", site / "rayvldd")
    (site / "rayvldd-9.9.dist-info").mkdir()
    (site / "rayvldd-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: rayvldd\nVersion: 9.9\n")
    monkeypatch.setattr(rayvldd, "__file__", str(site / "rayvldd" / "__init__.py"))
    monkeypatch.syspath_prepend(str(site))
    return site


def record(site: Path, origin: Any) -> None:
    """Write what an installer records, PEP 610."""
    text = origin if isinstance(origin, str) else json.dumps(origin)
    (site / "rayvldd-9.9.dist-info" / "direct_url.json").write_text(text)


def found() -> dict[str, str]:
    """The version as a new process finds it, without the release."""
    tags = dict(code_version.__wrapped__())
    assert tags.pop("rayvldd.version") == rayvldd.__version__
    return tags


def test_a_clone_has_its_commit(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayvldd, "__file__", str(clone / "rayvldd" / "__init__.py"))
    assert found() == {COMMIT: git(clone, "rev-parse", "HEAD"), CHANGED: "false"}
    (clone / "rayvldd" / "__init__.py").write_text("a = 3\n")
    assert found()[CHANGED] == "true"


def test_a_package_that_was_installed_from_a_clone_has_the_commit_of_the_clone(clone: Path, site: Path) -> None:
    record(site, {"url": clone.as_uri(), "dir_info": {}})
    assert found() == {COMMIT: git(clone, "rev-parse", "HEAD"), CHANGED: "false"}


def test_changes_that_were_installed_are_named(clone: Path, site: Path) -> None:
    record(site, {"url": clone.as_uri(), "dir_info": {}})
    for package in (clone, site):
        (package / "rayvldd" / "data" / "reader.py").write_text("b = 3\n")
    assert found() == {COMMIT: git(clone, "rev-parse", "HEAD"), CHANGED: "true"}


@pytest.mark.parametrize("name", ["data/reader.py", "added.py"])
def test_a_clone_that_has_gone_on_says_nothing_about_the_installed_code(clone: Path, site: Path, name: str) -> None:
    record(site, {"url": clone.as_uri(), "dir_info": {}})
    (clone / "rayvldd" / name).write_text("b = 3\n")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "Second")
    assert found() == {}


def test_the_commit_of_an_installation_from_a_repository_is_the_recorded_one(site: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    record(site, {"url": "https://example.org/rayvldd.git", "vcs_info": {"vcs": "git", "commit_id": commit}})
    assert found() == {COMMIT: commit, CHANGED: "false"}


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "{",
        "[" * 100_000,
        [],
        {"url": 3, "vcs_info": []},
        {"url": "https://example.org/rayvldd-9.9-py3-none-any.whl", "archive_info": {}},
        {"url": "file:///no/such/folder", "dir_info": {}},
        {"url": "file:///%00", "dir_info": {}},
        {"url": "file://[", "dir_info": {}},
    ],
    ids=lambda origin: str(origin)[:40],
)
def test_another_origin_has_no_commit_and_is_no_error(site: Path, origin: Any) -> None:
    if origin is not None:
        record(site, origin)
    assert found() == {}


def test_a_folder_without_git_has_no_commit(clone: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(site, {"url": clone.as_uri(), "dir_info": {}})
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        assert found() == {}
    shutil.rmtree(clone / ".git")
    assert found() == {}


def test_the_record_of_another_package_of_this_name_is_not_used(
    clone: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(site, {"url": clone.as_uri(), "dir_info": {}})
    shutil.copytree(site / "rayvldd", tmp_path / "copy" / "rayvldd")
    monkeypatch.setattr(rayvldd, "__file__", str(tmp_path / "copy" / "rayvldd" / "__init__.py"))
    assert found() == {}
