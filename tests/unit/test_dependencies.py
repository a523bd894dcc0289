"""pyproject.toml lists all imports with the modules that need them; constraints.txt pins all packages."""

import functools
import re
import sys
import tomllib

import pytest
from helpers.imports_of_files import imports_of
from helpers.paths import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
TOOLS = ("dev", "docs", "rivals")
"""Extras that the package does not import."""
EXTRAS = [line for extra, lines in PROJECT["optional-dependencies"].items() if extra not in TOOLS for line in lines]
"""Imported by some functions of the package; whoever does not call them does not need to install it."""
REQUIREMENTS = [*PROJECT["dependencies"], *EXTRAS]

IMPORTED_AS = {
    "huggingface-hub": "huggingface_hub",
    "nvidia-ml-py": "pynvml",
    "pillow": "PIL",
    "pydantic-core": "pydantic_core",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "tensorboardx": "tensorboardX",
}
IMPORTED_BY_OTHERS = {"cmaes", "google-api-python-client", "torchvision"}
"""Wanted by a package that we import, not by us: the comment names that package."""

IMPORTED_BY_MYPY = {"mypy_boto3_s3"}
"""Types that boto3 itself does not have, from the stubs of the extra `dev`."""


def name_of(requirement: str) -> str:
    """The distribution's name, without extras and versions."""
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower()


@functools.cache
def imports() -> dict[str, set[str]]:
    """Top-level package to the modules of rayvldd that import it."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "rayvldd").rglob("*.py"):
        for one in imports_of(file):
            if not one.module.startswith("."):
                found.setdefault(one.module.split(".")[0], set()).add(str(file.relative_to(ROOT / "rayvldd")))
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names | {"rayvldd"}}


def test_every_import_is_a_dependency() -> None:
    required = {IMPORTED_AS.get(name_of(line), name_of(line)) for line in REQUIREMENTS}
    assert imports().keys() - required - IMPORTED_BY_MYPY == set()


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_dependency_is_imported_in_the_module_of_its_comment(requirement: str) -> None:
    line = next(line for line in PYPROJECT.splitlines() if f'"{requirement}"' in line)
    comment = line.partition("  # ")[2]
    assert comment, f"{requirement}: name the module that needs it"
    name = name_of(requirement)
    if name in IMPORTED_BY_OTHERS:
        return
    files = imports().get(IMPORTED_AS.get(name, name), set())
    assert files, f"{name} is imported nowhere"
    for place in re.findall(r"\b[\w/]+(?:/|\.py)(?=\W|$)", comment):
        assert any(file == place or file.startswith(place) for file in files), f"{place} does not import {name}"


def test_constraints_pin_every_requirement_by_name_and_version_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    of_tools = [line for extra in TOOLS for line in PROJECT["optional-dependencies"][extra]]
    required = {name_of(line) for line in [*REQUIREMENTS, *of_tools]}
    assert required - pinned == {"rayvldd"}, "an extra that includes another one"


def test_every_file_of_the_package_is_installed() -> None:
    """An editable installation has all files; only an ordinary one shows missing ones."""
    patterns = tomllib.loads(PYPROJECT)["tool"]["setuptools"]["package-data"]["rayvldd"]
    package = ROOT / "rayvldd"
    installed = {file for pattern in patterns for file in package.glob(pattern)}
    others = {file for file in package.rglob("*.*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert others - installed == set()
