"""Every search space that ships loads, describes itself, and survives being written and read again."""

import re
from pathlib import Path

import pytest

from rayvldd.config.loading import dump_study, load_study

ROOT = Path(__file__).parents[1] / "search_spaces"
FILES = sorted(ROOT.rglob("*.yaml"))

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


def test_some_search_spaces_are_found() -> None:
    assert FILES, f"no YAML file anywhere below {ROOT}"


@pytest.fixture(params=FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search space, with a value for every environment variable that it names."""
    found: Path = request.param
    for name in _VARIABLE.findall(found.read_text(encoding="utf-8")):
        monkeypatch.setenv(name, f"/some/place/{name.lower()}")
    return found


def test_loads_and_round_trips(file: Path, tmp_path: Path) -> None:
    study = load_study(file)
    again = tmp_path / "again.yaml"
    again.write_text(dump_study(study), encoding="utf-8")
    assert load_study(again) == study


def test_is_a_search_named_after_its_file(file: Path) -> None:
    study = load_study(file)
    assert study.name == file.stem
    assert study.search.space
    for point in study.search.initial_points:
        assert study.at(point).search.space == {}


def test_header_gives_command_expectation_and_source(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    assert f"rayvldd sweep search_spaces/{file.relative_to(ROOT)}" in header
    for part in ("# Command:", "# Expect:", "# Ranges:"):
        assert part in header


def test_variables_are_explained_in_the_header(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for name in _VARIABLE.findall(text):
        assert f"export {name}=" in text


def test_no_path_of_some_machine(file: Path) -> None:
    values = [line.split("#")[0] for line in file.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in values if re.search(r":\s*[\"']?[/~]", line)]
