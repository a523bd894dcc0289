"""Loading and validation of a study from a YAML file or a dict, with overrides; all faults are reported at once."""

import copy
import os
import re
import shlex
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from rayvldd.config.base import Settings
from rayvldd.config.domains import ChoiceDomain, FloatDomain, SettingValue
from rayvldd.config.search_faults import faults_of_conditions, faults_of_inactive, faults_of_search
from rayvldd.config.setting import sections_in
from rayvldd.config.study import METHOD, Study, about, all_settings, changes_experts, open_section, set_dotted
from rayvldd.config.study_files import (
    EXTENDS,
    TAGS,
    StudyValues,
    extended,
    parsed_yaml,
    read_study,
    stop_searching,
    yaml_text,
)
from rayvldd.errors import ConfigError, Fault, did_you_mean
from rayvldd.printable import quoted, value_as_text

_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def load_study(
    source: str | Path | Mapping[str, object], overrides: Sequence[str] | Mapping[str, object] = ()
) -> Study:
    """Load a study, apply overrides, substitute ``${NAME}`` from the environment, and validate the result.

    An override of a searched setting fixes it: the setting is removed from the search space and the initial points.

    Args:
        source: Path of a study file; or its values as nested mappings, in which a section may be a settings object.
        overrides: ``KEY=VALUE`` texts with YAML values; or values by dotted key.

    Raises:
        ConfigError: listing every fault with file, key, value and the allowed values.
    """
    if isinstance(source, Mapping):
        study = extended(_mapping(source), IN_MEMORY, Path(), _is_value)
    else:
        study = read_study(Path(source), _is_value)
    return _with_overrides(study, overrides)


def load_untrusted_study(values: Mapping[str, JsonValue], file: str, overrides: Sequence[str] = ()) -> Study:
    """Load a study of unknown origin, such as that of a set's card, and apply overrides.

    Environment variables are filled into overrides only: a ``${NAME}`` in ``values`` could show a secret of this
    machine. It is refused, since a study that was loaded and written again contains none.

    Args:
        values: All settings of a study.
        file: Name of their file in error messages.
        overrides: ``KEY=VALUE`` texts with YAML values.

    Raises:
        ConfigError: listing every fault with file, key, value and the allowed values.
    """
    given = StudyValues(_mapping(values), file)
    references = {key: text for key, text in _texts(given.values) if _ENVIRONMENT.search(text)}
    faults = _apply_overrides(given, overrides)
    faults += [
        Fault(f"{file}: {key}", f"is {text!r}, and no environment variable is filled in here", f"--set {key}=VALUE")
        for key, text in _texts(given.values)
        if references.get(key) == text
    ]
    if faults:
        raise ConfigError(faults, next_command="add --set KEY=VALUE to the command")
    return _with_overrides(given, ())


def _texts(value: JsonValue, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts at and below a value, with their dotted keys."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{index}]")
    elif isinstance(value, str):
        yield key, value


def _with_overrides(given: StudyValues, overrides: Sequence[str] | Mapping[str, object]) -> Study:
    faults = _apply_overrides(given, overrides)
    values = cast(dict[str, JsonValue], _fill_environment(given.values, "", faults, given.file))
    study, faults_inside = _checked(values, given.file)
    faults += faults_inside
    if faults or study is None:
        given_here = [] if isinstance(overrides, Mapping) else [word for one in overrides for word in ("--set", one)]
        command = shlex.join(["rayvldd", "check", given.file, *given_here])
        next_command = f"correct the file or add --set KEY=VALUE, then: {command}"
        if given.file == IN_MEMORY:
            next_command = "correct the settings, then load them again"
        raise ConfigError([given.located(fault) for fault in faults], next_command=next_command)
    return study


IN_MEMORY = "<dict>"
"""Name of a study without a file, in error messages."""


def dump_study(study: Study) -> str:
    """Return the study as YAML; :func:`load_study` reads it back to an equal study."""
    return yaml_text(study.model_dump(mode="json"))


def dump_changes(study: Study, overridden: Iterable[str] = ()) -> str:
    """Return the settings that differ from their defaults as YAML; :func:`load_study` reads it to an equal study.

    Settings without a default are included. The last line, a comment, has the number of the settings left out.

    Args:
        study: The study.
        overridden: Dotted keys that ``--set`` gave; their lines end with a comment that says so.
    """
    changes = _changes(study)
    _remove_implied_sections(changes, study)
    known = all_settings()
    others = _num_settings(study.model_dump(mode="json"), known) - _num_settings(changes, known)
    text = yaml_text(changes, dict.fromkeys(overridden, "--set"))
    return f"{text}# {others} other settings have their defaults; --json has all of them.\n"


def _changes(section: Settings) -> dict[str, JsonValue]:
    """The values of a section that differ from the defaults of its class, and those without a default."""
    values, changes = section.model_dump(mode="json"), dict[str, JsonValue]()
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            changes[name] = _changed(value, values[name])
    for name, further in (section.__pydantic_extra__ or {}).items():
        changes[name] = _changed(further, values[name])
    return changes


def _changed(value: object, dumped: JsonValue) -> JsonValue:
    """A value without the defaults of the sections in it; they may be in a mapping or a list."""
    if isinstance(value, Settings):
        return _changes(value)
    if isinstance(value, Mapping) and isinstance(dumped, dict):
        return {name: _changed(value[name], inner) for name, inner in dumped.items()}
    if isinstance(value, tuple) and isinstance(dumped, list):
        return [_changed(part, inner) for part, inner in zip(value, dumped, strict=True)]
    return dumped


def _remove_implied_sections(changes: dict[str, JsonValue], study: Study) -> None:
    """Remove empty sections of methods that a study has without naming them: of the method in use and searched ones.

    The empty section of another method is kept: a study with it is not equal to one without it.
    """
    sections = changes.get("distillation")
    if not isinstance(sections, dict):
        return
    domain = study.search.space.get(METHOD)
    searched = domain.values if isinstance(domain, ChoiceDomain) else ()
    for method in (study.distillation.method, *searched):
        if sections.get(str(method)) == {}:
            del sections[str(method)]
    if not sections:
        del changes["distillation"]


def _num_settings(values: Mapping[str, JsonValue], known: Container[str], section: str = "") -> int:
    """Number of settings in a section and its subsections; a setting that is a mapping counts once."""
    count = 0
    for name, value in values.items():
        key = f"{section}{name}"
        is_section = isinstance(value, dict) and key not in known
        count += _num_settings(cast(dict[str, JsonValue], value), known, f"{key}.") if is_section else 1
    return count


def _is_value(key: str) -> bool:
    return key in all_settings()


def _mapping(given: Mapping[str, object]) -> dict[str, JsonValue]:
    return {str(name): _json_value(value) for name, value in given.items()}


def _json_value(given: object) -> JsonValue:
    """Convert a value to its form in a study file: settings objects to sections, tuples to lists, paths to texts."""
    if isinstance(given, BaseModel):
        return cast(JsonValue, given.model_dump(mode="json"))
    if isinstance(given, Mapping):
        return _mapping(given)
    if isinstance(given, list | tuple):
        return [_json_value(value) for value in given]
    return str(given) if isinstance(given, Path) else cast(JsonValue, given)


def _checked(values: dict[str, JsonValue], file: str) -> tuple[Study | None, list[Fault]]:
    """Validate a study and its space; if parts are invalid, also check the rest without them."""
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        return None, faults_of(error, file) + _faults_besides(error, values, file)
    return study, _faults_of_space(study, file)


def _faults_besides(error: ValidationError, values: dict[str, JsonValue], file: str) -> list[Fault]:
    """Find contradictions between keys and sections, which pydantic checks only if every section is valid.

    The invalid parts are left out or replaced. If they belong to ``experts`` or ``distillation``, the consistency of
    the two cannot be checked, and no further faults are reported.
    """
    remaining = copy.deepcopy(values)
    for detail in error.errors(include_url=False):
        location = list(map(str, _without_tags(detail["loc"])))
        if detail["type"] == "extra_forbidden":
            _remove(remaining, location)
        elif not location or location[0] in ("experts", "distillation"):
            return []
        elif location[0] in _PLACEHOLDERS:
            remaining[location[0]] = copy.deepcopy(_PLACEHOLDERS[location[0]])
        else:
            _remove(remaining, location[:3])  # all of search.space.KEY, and the points that may contain it
            _remove(remaining, ["search", "initial_points"])
    return [] if remaining == values else _checked(remaining, file)[1]


_PLACEHOLDERS: dict[str, JsonValue] = {
    "name": "placeholder",
    "data": {"source": "toy_scenes"},
    "model": {"protocol": "lora", "image_encoder": {"name": "any"}, "text_encoder": {"pooling": "hashed_ngrams"}},
}
"""Valid values for the keys without a default, used while the rest of an invalid study is checked."""


def _remove(values: JsonValue, location: Sequence[str]) -> None:
    for part in location[:-1]:
        if not isinstance(values, dict) or part not in values:
            return
        values = values[part]
    if isinstance(values, dict):
        values.pop(location[-1], None)


# --- overrides and environment ------------------------------------------------------------------------------------


def _apply_overrides(study: StudyValues, overrides: Sequence[str] | Mapping[str, object]) -> list[Fault]:
    """Apply overrides in place; return the faults of the overrides themselves."""
    faults, parsed = list[Fault](), list[tuple[str, str, JsonValue]]()
    if isinstance(overrides, Mapping):
        parsed = [(f"override {key}", key, _json_value(value)) for key, value in overrides.items()]
    else:
        parsed, faults = parsed_assignments(overrides, "--set ")
    for where, key, value in parsed:
        try:
            _apply_override(study.values, key, value)
            study.files[key] = study.file
        except TypeError as error:
            faults.append(Fault(where, str(error)))
    return faults


def parsed_assignments(texts: Sequence[str], option: str = "") -> tuple[list[tuple[str, str, JsonValue]], list[Fault]]:
    """Parse ``KEY=VALUE`` texts with YAML values.

    Args:
        texts: The texts.
        option: The option before each text in a command, for the faults.

    Returns:
        For each valid text its name in faults, its key and its value; and the faults of the others.
    """
    parsed, faults = list[tuple[str, str, JsonValue]](), list[Fault]()
    for given in texts:
        key, separator, text = given.partition("=")
        where = f"{option}{given}"
        if not separator or not key:
            faults.append(Fault(where, "has no '='", f"{option}KEY=VALUE, e.g. {option}distillation.lr_image=300"))
            continue
        try:
            parsed.append((where, key, parsed_yaml(text)))
        except yaml.YAMLError:
            faults.append(Fault(where, "the value is not YAML", f"quote it: {option}'KEY=\"VALUE\"'"))
    return parsed, faults


def _apply_override(values: dict[str, JsonValue], key: str, value: JsonValue) -> None:
    if key.startswith(_SPACE):
        _override_space(open_section(open_section(values, "search"), "space"), key.removeprefix(_SPACE), value)
        return
    set_dotted(values, key, value)
    stop_searching(values, key)


_SPACE = "search.space."


def _override_space(space: dict[str, JsonValue], key: str, value: JsonValue) -> None:
    """Change a domain or one of its entries; keys of the space contain dots themselves."""
    setting, _, part = key.rpartition(".")
    if part in ("type", "low", "high", "log", "step", "values", "value", "when"):
        open_section(space, setting)[part] = value
    else:
        space[key] = value


def _fill_environment(value: JsonValue, key: str, faults: list[Fault], file: str) -> JsonValue:
    if isinstance(value, dict):
        return {k: _fill_environment(v, f"{key}.{k}" if key else str(k), faults, file) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill_environment(v, f"{key}[{i}]", faults, file) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    missing = [name for name in _ENVIRONMENT.findall(value) if name not in os.environ]
    faults.extend(
        Fault(
            f"{file}: {key}",
            f"the environment variable {name} is not set",
            f"export {name}=…, or --set {key}=…",
        )
        for name in missing
    )
    return value if missing else _ENVIRONMENT.sub(lambda found: os.environ[found[1]], value)


# --- from pydantic's errors to faults -----------------------------------------------------------------------------


def faults_of(error: ValidationError, file: str) -> list[Fault]:
    """Translate pydantic's errors into faults with file, key, value and the allowed values."""
    faults: dict[str, Fault] = {}
    for detail in error.errors(include_url=False):
        given = detail.get("input")
        if isinstance(given, str) and _ENVIRONMENT.search(given):
            continue  # the missing variable is already a fault
        fault = _fault(detail, file)
        faults.setdefault(str(fault), fault)  # a union of plain types gives one error for each type
    return list(faults.values())


def _fault(detail: ErrorDetails, file: str) -> Fault:
    location = _without_tags(detail["loc"])
    where = f"{file}: {'.'.join(map(str, location)) or 'study'}"
    given, context = detail.get("input"), detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            known = _known_keys(detail["loc"][:-1])
            hint = _elsewhere(location[-1]) or _near(location[-1], known)
            return Fault(where, f"unknown key {location[-1]!r}{hint}", ", ".join(known))
        case "missing":
            return Fault(where, "is missing", "a value: this key has no default")
        case "union_tag_not_found":
            return Fault(f"{where}.{_unquoted(context['discriminator'])[0]}", "is missing", _tags_at(detail["loc"]))
        case "union_tag_invalid":
            where = f"{where}.{_unquoted(context['discriminator'])[0]}"
            allowed = context["expected_tags"]
            return Fault(where, f"unknown {context['tag']!r}{_near(context['tag'], _unquoted(allowed))}", allowed)
        case "literal_error":
            allowed = context["expected"]
            return Fault(where, f"unknown {given!r}{_near(given, _unquoted(allowed))}", allowed)
        case "model_type" | "model_attributes_type" | "dict_type":
            return Fault(where, f"is {given!r}", "a section with keys")
        case "value_error":
            return Fault(where, str(context["error"]))
    last = detail["loc"][-1] if detail["loc"] else ""  # a key that is no text has no location
    if last in _PLAIN_TYPES or _is_list_tag(last):
        return Fault(where, f"is {given!r}", "a number, a text, true, false, null, or a list of these")
    if detail["type"] in ("bool_parsing", "bool_type"):
        return Fault(where, f"unknown {given!r}", "true or false")
    message = detail["msg"]
    return Fault(where, f"{message[0].lower()}{message[1:]}, got {given!r}")


_PLAIN_TYPES = ("bool", "int", "float", "str")
_UNION_TAGS = frozenset(
    {
        *("toy_scenes", "folder", "karpathy", "blip", "table", "coco", "webdataset", "huggingface"),
        *("float", "int", "choice", "fixed", "bool", "str", "[key]"),
    }
)
"""Names that pydantic inserts into an error's location for union members and dict keys; no setting has these names."""


def _without_tags(location: Sequence[int | str]) -> list[int | str]:
    """The keys of a location; a fault inside a list that is a single value is a fault of that value."""
    inside = next((place for place, part in enumerate(location) if _is_list_tag(part)), len(location))
    return [part for part in location[:inside] if part not in _UNION_TAGS]


def _is_list_tag(part: int | str) -> bool:
    """Whether this is the name that pydantic gives to the lists among the values of a setting."""
    return isinstance(part, str) and part.startswith("tuple[")


def _near(name: object, known: Iterable[str]) -> str:
    return did_you_mean(str(name), known)


def _elsewhere(name: object) -> str:
    """Suggestion of the settings with this name in other sections, if there are one or two."""
    found = [key for key in all_settings() if key.rpartition(".")[2] == str(name)]
    return f" (did you mean {' or '.join(map(repr, found))}?)" if 1 <= len(found) <= 2 else ""


def _unquoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


# --- known keys ---------------------------------------------------------------------------------------------------


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The allowed keys at a location, which may contain the tag of a union member."""
    models = _models_at(location)
    keys = {name for model in models for name in [*model.model_fields, *_sections_of(model)]}
    return sorted(keys if location else {*keys, EXTENDS})


def _tags_at(location: Sequence[int | str]) -> str:
    return ", ".join(tag for model in _models_at(location) for tag in _tags_of(model))


def _models_at(location: Sequence[int | str]) -> list[type[BaseModel]]:
    annotations: list[Any] = [Study]
    for part in location:
        models = [model for annotation in annotations for model in sections_in(annotation)]
        chosen = [model for model in models if part in _tags_of(model)]
        fields: list[Any] = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        fields += [_sections_of(model)[part] for model in models if part in _sections_of(model)]
        values = [get_args(annotation)[1] for annotation in annotations if get_origin(annotation) is dict]
        annotations = fields or chosen or values
    return [model for annotation in annotations for model in sections_in(annotation)]


def _sections_of(model: type[BaseModel]) -> dict[str, type[Settings]]:
    """The sections that plug-ins add to a model, by key."""
    return model.further_sections() if issubclass(model, Settings) else {}


def _tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of the tag that selects this member of a union."""
    for name in TAGS:
        if name in model.model_fields:
            return get_args(model.model_fields[name].annotation)
    return ()


# --- the search space ---------------------------------------------------------------------------------------------


def _faults_of_space(study: Study, file: str) -> list[Fault]:
    """Check that every searched key exists, may be searched, and is valid at the ends of its domain."""
    faults = []
    for key, domain in study.search.space.items():
        where = f"{file}: search.space.{key}"
        if not _is_setting(key):
            searchable = [name for name, info in all_settings().items() if info.searchable]
            allowed = ", ".join(dict.fromkeys(f"{name.partition('.')[0]}.*" for name in searchable))
            faults.append(Fault(where, f"not a searchable setting{did_you_mean(key, searchable)}", allowed))
        elif changes_experts(key) and isinstance(domain, FloatDomain):
            allowed = "int or choice: each value needs its own experts"
            faults.append(Fault(where, "a float domain would need infinitely many expert sets", allowed))
    faults += faults_of_conditions(study.search.space, _is_setting, file)
    faults += faults_of_search(study, file)
    if faults:  # with invalid conditions, checking points and corners gives no further information
        return faults + _faults_outside(study, file)
    return _faults_outside(study, file) or _faults_of_corners(study, file)


def _faults_outside(study: Study, file: str) -> list[Fault]:
    points = enumerate(study.search.initial_points)
    return [
        fault
        for number, point in points
        for fault in faults_of_point(study, f"{file}: search.initial_points[{number}]", point)
    ]


def _is_setting(key: str) -> bool:
    """Whether a dotted key is a setting that can be searched and that conditions can refer to."""
    info = about(key)
    return info is not None and info.searchable


def faults_of_point(study: Study, where: str, point: Mapping[str, SettingValue]) -> list[Fault]:
    """Check that a point, which may be partial, has searched settings with values of their domains."""
    faults = []
    for key, value in point.items():
        domain = study.search.space.get(key)
        if domain is None:
            known = list(study.search.space)
            faults.append(Fault(where, f"{key!r} is not searched{did_you_mean(key, known)}", ", ".join(known)))
        elif value not in domain:
            faults.append(Fault(where, f"{key}={quoted(value)} is outside its domain", str(domain)))
    return faults + faults_of_inactive(study, where, point)


def _faults_of_corners(study: Study, file: str) -> list[Fault]:
    """Validate the study at the ends of its domains, so that no trial can have invalid settings."""
    faults: dict[str, Fault] = {}
    for point in study.corners():
        try:
            study.at(point)
        except ValidationError as error:
            shown = ", ".join(f"{key}={value_as_text(value)}" for key, value in point.items())
            for fault in faults_of(error, f"{file}: search.space at {shown}"):
                faults.setdefault(fault.problem, fault)
    return list(faults.values())
