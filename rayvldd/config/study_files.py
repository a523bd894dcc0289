"""Study files: YAML in which 1e-2 is a number, with inheritance through ``extends``.

A file that extends a base file states only its differences. Sections are merged setting by setting. Lists, domains of
the search space and mapping-valued settings (``model.image_encoder.options``) replace those of the base. Another
``data.source`` replaces the whole section. If a file states a constant for a setting that the base searches, or
``null`` as its domain, the setting is removed from the space and from the inherited initial points.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from pydantic import JsonValue

from rayvldd.config.bounded_yaml import BoundedLoader, parsed_documents
from rayvldd.config.setting import flat_settings, setting_at
from rayvldd.config.shipped_spaces import shipped_spaces
from rayvldd.errors import ConfigError, Fault, did_you_mean
from rayvldd.user_paths import exists, files_in, is_file, user_path

EXTENDS = "extends"
"""Key of the base file in a study file."""
TAGS = ("source", "type")
"""Keys whose value selects one of several forms of a section."""
_SPACE = "search.space"


@dataclass(frozen=True)
class StudyValues:
    """The unvalidated values of a study, and the file that states each of them."""

    values: dict[str, JsonValue]
    file: str
    """The file that was loaded, not its base files."""
    files: dict[str, str] = field(default_factory=dict)
    """Dotted key -> file that states it; for sections the last file that states a part of it."""

    def located(self, fault: Fault) -> Fault:
        """The fault, with the file that states the faulty key."""
        prefix, separator, place = fault.where.partition(": ")
        if prefix != self.file or not separator:
            return fault
        stated = [key for key in self.files if re.match(rf"{re.escape(key)}(?![\w-])", place)]
        return replace(fault, where=f"{self.files[max(stated, key=len)]}: {place}") if stated else fault


# --- inheritance --------------------------------------------------------------------------------------------------


def read_study(path: Path, is_value: Callable[[str], bool]) -> StudyValues:
    """Read a study file and its base files.

    Args:
        path: The file, or the name of a shipped study such as ``quickstart``.
        is_value: Whether a dotted key is a setting, not a section.

    Raises:
        ConfigError: if a file is missing or is not a mapping, or if the files extend each other in a cycle.
    """
    path = user_path(path)
    if not exists(path) and path.name == str(path) and path.name in shipped_spaces():
        path = shipped_spaces()[path.name]
    return extended(_read_yaml(path), str(path), path.parent, is_value, (path,))


def extended(
    own: dict[str, JsonValue],
    file: str,
    folder: Path,
    is_value: Callable[[str], bool],
    chain: Sequence[Path] = (),
) -> StudyValues:
    """Merge the values of a study into those of its base file, if it names one.

    Args:
        own: Values that the study states.
        file: Name of its file in error messages.
        folder: Folder that the path of the base file is relative to.
        is_value: Whether a dotted key is a setting, not a section.
        chain: The files whose ``extends`` led here; this file is last.

    Raises:
        ConfigError: like :func:`read_study`.
    """
    if EXTENDS not in own:
        return StudyValues(own, file, _stated(own, file))
    own = dict(own)
    path = _base_file(own.pop(EXTENDS), file, folder, chain)
    base = extended(_read_yaml(path), str(path), path.parent, is_value, (*chain, path))
    inherited = setting_at(base.values, _SPACE)
    searched = set(inherited) if isinstance(inherited, dict) else set()
    _overlay(base.values, base.files, own, file, is_value)
    own_space = setting_at(own, _SPACE)
    own_domains = own_space if isinstance(own_space, dict) else {}
    constants = {key for key in flat_settings(own) if key not in own_domains}
    for key in sorted(searched):
        if key in constants or own_domains.get(key, ...) is None:
            stop_searching(base.values, key)
    return replace(base, file=file)


def _base_file(named: JsonValue, file: str, folder: Path, chain: Sequence[Path]) -> Path:
    where, next_command = f"{file}: {EXTENDS}", f"correct the file, then: rayvldd check {file}"
    if not isinstance(named, str) or not named:
        allowed = "the path of one study file, relative to this one, or the name of a shipped study"
        raise ConfigError([Fault(where, f"is {named!r}", allowed)], next_command=next_command)
    path = Path(os.path.normpath(folder / user_path(named)))
    if not is_file(path) and named in shipped_spaces():
        path = shipped_spaces()[named]
    if not is_file(path):
        known = [os.path.relpath(found, folder) for found in files_in(path.parent, "*.yaml")]
        hint = did_you_mean(named, known)
        raise ConfigError([Fault(where, f"no such study file {named!r}{hint}")], next_command=next_command)
    if any(path.samefile(earlier) for earlier in chain):
        cycle = " -> ".join(map(str, [*chain, path]))
        problem = f"the files extend each other in a cycle: {cycle}"
        raise ConfigError([Fault(where, problem, "a file that does not extend this one")], next_command=next_command)
    return path


def _overlay(
    values: dict[str, JsonValue],
    files: dict[str, str],
    own: Mapping[str, JsonValue],
    file: str,
    is_value: Callable[[str], bool],
    section: str = "",
) -> None:
    """Merge the values of a file into those of its base, in place."""
    for name, value in own.items():
        key = f"{section}.{name}" if section else name
        before = values.get(name)
        is_section = isinstance(before, dict) and section != _SPACE and (key == _SPACE or not is_value(key))
        if is_section and value is None:
            continue  # an empty section
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
    """Remove a setting from the search space and the initial points."""
    space = setting_at(values, _SPACE)
    if not isinstance(space, dict) or key not in space:
        return
    del space[key]
    points = setting_at(values, "search.initial_points")
    for point in points if isinstance(points, list) else []:
        if isinstance(point, dict):
            point.pop(key, None)


# --- YAML ---------------------------------------------------------------------------------------------------------

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_FLOAT_TAG = "tag:yaml.org,2002:float"


class _Loader(BoundedLoader):
    """YAML loader that reads 1e-2 as a number and rejects duplicate keys, of which PyYAML would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes texts which the loader would read as numbers."""


_Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+.0123456789"))


def parsed_yaml(text: str) -> JsonValue:
    """Parse a YAML text.

    Raises:
        yaml.YAMLError: if the text is not valid YAML, has more than one document, or exceeds the bounds of
            :mod:`rayvldd.config.bounded_yaml`.
    """
    documents = parsed_documents(text, _Loader)
    if len(documents) > 1:
        raise yaml.YAMLError(f"{len(documents)} documents; allowed: one")
    return documents[0] if documents else None


def yaml_text(values: Mapping[str, JsonValue], comments: Mapping[str, str] | None = None) -> str:
    """Format values as YAML that :func:`parsed_yaml` reads back.

    Args:
        values: The values.
        comments: Comments at the ends of lines, by the dotted key of the line; those of other keys are left out.
    """
    text = str(yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, width=110))
    if not comments:
        return text
    lines, root = text.splitlines(), yaml.compose(text, Loader=yaml.SafeLoader)
    for key, comment in comments.items():
        line = _line_of(root, key)
        if line is not None:
            lines[line] += f"  # {comment}"
    return "".join(f"{line}\n" for line in lines)


def _line_of(node: yaml.Node | None, key: str) -> int | None:
    """The line of a dotted key, whose parts may have dots; of a text on several lines the last one."""
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if name.value == key:
            return value.end_mark.line if isinstance(value, yaml.ScalarNode) else name.end_mark.line
        inside = _line_of(value, key.removeprefix(f"{name.value}.")) if key.startswith(f"{name.value}.") else None
        if inside is not None:
            return inside
    return None


def _read_yaml(path: Path) -> dict[str, JsonValue]:
    if not is_file(path):
        known = [*sorted(str(found) for found in Path("search_spaces").glob("*.yaml")), *shipped_spaces()]
        hint = did_you_mean(str(path), known)
        raise ConfigError(
            [Fault(str(path), f"no such study file{hint}", ", ".join(known) or "the path of a YAML file")],
            next_command="rayvldd check quickstart",
        )
    try:
        values = parsed_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([Fault(f"{path}{line}", f"not readable as YAML: {error.problem}")]) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([Fault(str(path), f"not readable as YAML: {error}")]) from None
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"is of type {type(values).__name__}"
        raise ConfigError([Fault(str(path), found, "a mapping with the keys of a study")])
    return values
