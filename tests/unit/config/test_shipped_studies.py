"""The search spaces that ship: what each of them means, and that none states what goes without saying."""

import contextlib
import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rayvldd.config.setting import flat_settings
from rayvldd.config.study import Study, all_settings
from rayvldd.config.study_files import EXTENDS, extended, parsed_yaml

ROOT = Path(__file__).parents[3] / "search_spaces"
FILES = sorted(ROOT.rglob("*.yaml"))
MEANT = json.loads((Path(__file__).parent / "shipped_studies.json").read_text(encoding="utf-8"))
"""By name: the settings by dotted key, and the domains in order, which determines the samples."""


@cache
def is_value(key: str) -> bool:
    return key in all_settings()


def study_of(own: dict[str, Any], file: Path) -> Study:
    """The study that a file with these values is; environment variables stay as they are."""
    return Study.model_validate(extended(copy.deepcopy(own), str(file), file.parent, is_value).values)


def own_values(file: Path) -> dict[str, Any]:
    values = parsed_yaml(file.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def without_one_value(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value that nested settings state, with the settings without it."""
    for name, value in values.items():
        others = {key: other for key, other in values.items() if key != name}
        if isinstance(value, dict) and value:
            for key, rest in without_one_value(value, f"{path}{name}."):
                yield key, {**values, name: rest} if rest else others
        else:
            yield f"{path}{name}", others


def test_every_file_has_its_meaning_written_down() -> None:
    assert sorted(MEANT) == sorted(file.stem for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_keeps_its_meaning(file: Path) -> None:
    """The recorded studies hold; a setting that has come since has its default."""
    values = study_of(own_values(file), file).model_dump(mode="json")
    space, meant = values["search"].pop("space"), MEANT[file.stem]
    flat = flat_settings(values)
    assert {key: flat.get(key, "is missing") for key in meant["settings"]} == meant["settings"]
    assert [[key, domain] for key, domain in space.items()] == meant["space"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_states_only_differences(file: Path) -> None:
    """Without any value that it states, the file would be another study, or none."""
    own = own_values(file)
    study, repeated = study_of(own, file), []
    for key, rest in without_one_value(own):
        if key in (EXTENDS, "name"):
            continue
        with contextlib.suppress(ValidationError):
            repeated += [key] if study_of(rest, file) == study else []
    assert not repeated, "these go without saying: as defaults, or in the file that this one extends"


def test_a_value_that_is_repeated_would_be_found() -> None:
    own = {"name": "x", "search": {"num_trials": 16, "max_concurrent": 3}}
    without = dict(without_one_value(own))
    assert without == {
        "name": {"search": {"num_trials": 16, "max_concurrent": 3}},
        "search.num_trials": {"name": "x", "search": {"max_concurrent": 3}},
        "search.max_concurrent": {"name": "x", "search": {"num_trials": 16}},
    }
