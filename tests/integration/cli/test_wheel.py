"""A built wheel holds the shipped studies where an installation looks for them."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.paths import ROOT

SOURCES = ("rayvldd", "search_spaces", "pyproject.toml", "README.md", "LICENSE")
DATA = "rayvldd-*.data/data"
"""Files of a wheel that pip puts below ``sysconfig.get_path("data")``."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel that is built from a copy of the sources, with the setuptools that is here."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        place = folder / "sources" / name
        place.parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__", "pictures"))
        else:
            shutil.copy(ROOT / name, place)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*pip, "-w", str(folder), str(folder / "sources")], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_shipped_studies_are_in_the_wheel(unpacked: Path) -> None:
    (data,) = unpacked.glob(DATA)
    script = (
        f"import json, sysconfig; sysconfig.get_path = lambda name: {str(data)!r}; "
        "from rayvldd.config.shipped_spaces import shipped_spaces; "
        "print(json.dumps({name: str(file) for name, file in shipped_spaces().items()}))"
    )
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    shown = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=unpacked, env=environment
    )
    installed = {name: Path(file) for name, file in json.loads(shown.stdout).items()}
    shipped = {file.stem: file for file in (ROOT / "search_spaces").glob("*.yaml")}
    assert len(shipped) > 10 and set(installed) == set(shipped)
    for name, file in installed.items():
        assert file.is_relative_to(data) and file.read_bytes() == shipped[name].read_bytes()
