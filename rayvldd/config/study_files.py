"""Study files: YAML in which 1e-2 is a number, and ``extends`` for what one study shares with another.

A file that extends another states only what differs. Sections are merged setting by setting. A list, a domain of the
search space and a setting that is itself a mapping (``model.image_encoder.options``) replace the other file's. Another
``data.source`` replaces the whole section. Where a file states a constant for a setting that the other file searches,
or ``null`` as its domain, the setting leaves the space and the inherited initial points.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import yaml
from pydantic import JsonValue

from rayvldd.config.setting import flat_settings, value_at
from rayvldd.errors import ConfigError, Fault, did_you_mean

EXTENDS = "extends"
"""Key of the other file in a study file."""
TAGS = ("source", "type")
"""Keys whose value says which of several forms a section has."""
_SPACE = "search.space"


@dataclass(frozen=True)
class StudyValues:
    """The unchecked values of a study, and the file that states each of them."""

    values: dict[str, JsonValue]
    file: str
    """The file that was asked for."""
    files: dict[str, str] = field(default_factory=dict)
    """Dotted key to the file that states it, for sections the last one that states part of it."""

    def located(self, fault: Fault) -> Fault:
        """The fault with the file that states the key at fault."""
        prefix, separator, place = fault.where.partition(": ")
        if prefix != self.file or not separator:
            return fault
        stated = [key for key in self.files if re.match(rf"{re.escape(key)}(?![\w-])", place)]
        return replace(fault, where=f"{self.files[max(stated, key=len)]}: {place}") if stated else fault


# --- files that extend another ------------------------------------------------------------------------------------


def read_study(path: Path, is_value: Callable[[str], bool]) -> StudyValues:
    """Read a study file and the files that it extends.

    Args:
        path: The file.
        is_value: Whether a dotted key is a setting, not a section.

    Raises:
        ConfigError: when a file is missing or is no mapping, or when the files extend each other in a circle.
    """
    return extended(_read_yaml(path), str(path), path.parent, is_value, (path,))


def extended(
    own: dict[str, JsonValue],
    file: str,
    folder: Path,
    is_value: Callable[[str], bool],
    chain: Sequence[Path] = (),
) -> StudyValues:
    """The values of a study on top of those of the file that it extends, if it names one.

    Args:
        own: What the study states.
        file: The name of its file in faults.
        folder: Where the path of the other file starts.
        is_value: Whether a dotted key is a setting, not a section.
        chain: The files that led here, this one last.

    Raises:
        ConfigError: as :func:`read_study`.
    """
    if EXTENDS not in own:
        return StudyValues(own, file, _stated(own, file))
    own = dict(own)
    path = _other_file(own.pop(EXTENDS), file, folder, chain)
    base = extended(_read_yaml(path), str(path), path.parent, is_value, (*chain, path))
    inherited = value_at(base.values, _SPACE)
    searched = set(inherited) if isinstance(inherited, dict) else set()
    _overlay(base.values, base.files, own, file, is_value)
    own_space = value_at(own, _SPACE)
    own_domains = own_space if isinstance(own_space, dict) else {}
    constants = {key for key in flat_settings(own) if key not in own_domains}
    for key in sorted(searched):
        if key in constants or own_domains.get(key, ...) is None:
            stop_searching(base.values, key)
    return replace(base, file=file)


def _other_file(named: JsonValue, file: str, folder: Path, chain: Sequence[Path]) -> Path:
    where, next_command = f"{file}: {EXTENDS}", f"mend the file, then: rayvldd check {file}"
    if not isinstance(named, str) or not named:
        allowed = "the path of one study file, relative to this one"
        raise ConfigError([Fault(where, f"holds {named!r}", allowed)], next_command=next_command)
    path = Path(os.path.normpath(folder / named))
    if not path.is_file():
        known = [os.path.relpath(found, folder) for found in sorted(path.parent.glob("*.yaml"))]
        hint = did_you_mean(named, known)
        raise ConfigError([Fault(where, f"no such study file {named!r}{hint}")], next_command=next_command)
    if any(path.samefile(earlier) for earlier in chain):
        circle = " -> ".join(map(str, [*chain, path]))
        problem = f"the files extend each other in a circle: {circle}"
        raise ConfigError([Fault(where, problem, "a file that does not lead back here")], next_command=next_command)
    return path


def _overlay(
    values: dict[str, JsonValue],
    files: dict[str, str],
    own: Mapping[str, JsonValue],
    file: str,
    is_value: Callable[[str], bool],
    section: str = "",
) -> None:
    """Put what a file states over the values of another one, in place."""
    for name, value in own.items():
        key = f"{section}.{name}" if section else name
        before = values.get(name)
        is_section = isinstance(before, dict) and section != _SPACE and (key == _SPACE or not is_value(key))
        if is_section and value is None:
            continue  # a section left empty
        if isinstance(before, dict) and isinstance(value, dict) and is_section and not _other_form(before, value):
            files[key] = file
            _overlay(before, files, value, file, is_value, key)
            continue
        for stale in [known for known in files if known.startswith(f"{key}.")]:
            del files[stale]
        values[name] = value
        files |= _stated(value, file, key)


def _other_form(before: Mapping[str, JsonValue], own: Mapping[str, JsonValue]) -> bool:
    return any(tag in own and tag in before and own[tag] != before[tag] for tag in TAGS)


def _stated(value: JsonValue, file: str, key: str = "") -> dict[str, str]:
    """Every dotted key at and below a value, with the file that states it."""
    stated = {key: file} if key else {}
    for name, inner in value.items() if isinstance(value, dict) else ():
        stated |= _stated(inner, file, f"{key}.{name}" if key else str(name))
    return stated


def stop_searching(values: dict[str, JsonValue], key: str) -> None:
    """Take a setting out of the search space and the initial points, where it is in them."""
    space = value_at(values, _SPACE)
    if not isinstance(space, dict) or key not in space:
        return
    del space[key]
    points = value_at(values, "search.initial_points")
    for point in points if isinstance(points, list) else []:
        if isinstance(point, dict):
            point.pop(key, None)


# --- YAML ---------------------------------------------------------------------------------------------------------

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_FLOAT_TAG = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """Reads 1e-2 as the number that people mean, and refuses a key that comes twice instead of dropping the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} comes twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that the loader would take for numbers."""


_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))


def parsed_yaml(text: str) -> JsonValue:
    """The value that a text of YAML holds.

    Raises:
        yaml.YAMLError: when it is none.
    """
    return cast(JsonValue, yaml.load(text, Loader=_Loader))


def yaml_text(values: Mapping[str, JsonValue]) -> str:
    """The YAML that :func:`parsed_yaml` reads as these values."""
    return str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=110))


def _read_yaml(path: Path) -> dict[str, JsonValue]:
    if not path.is_file():
        known = sorted(str(found) for found in Path("search_spaces").glob("*.yaml"))
        hint = did_you_mean(str(path), known)
        raise ConfigError(
            [Fault(str(path), f"no such study file{hint}", ", ".join(known) or "the path of a YAML file")],
            next_command="rayvldd check search_spaces/quickstart.yaml",
        )
    try:
        values = parsed_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([Fault(f"{path}{line}", f"not readable as YAML: {error.problem}")]) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([Fault(str(path), f"not readable as YAML: {error}")]) from None
    if not isinstance(values, dict):
        held = "is empty" if values is None else f"holds {type(values).__name__}"
        raise ConfigError([Fault(str(path), held, "a mapping with the keys of a study")])
    return values
