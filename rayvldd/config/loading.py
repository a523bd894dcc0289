"""From a YAML file and ``--set`` overrides to a checked study, with all faults at once."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from rayvldd.config.domains import ChoiceDomain, FloatDomain
from rayvldd.config.study import SEARCHABLE_SECTIONS, Study, changes_experts, set_dotted
from rayvldd.errors import ConfigError, Fault, did_you_mean

_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SPACE_KEY = re.compile(r"search\.space\.(.+)\.(type|low|high|log|step|values)")


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Load a study file, apply ``key=value`` overrides, fill ``${NAME}`` from the environment and check it whole.

    Raises:
        ConfigError: listing every fault with file, key, value and what is allowed.
    """
    path = Path(path)
    values = _read_yaml(path)
    faults = _apply_overrides(values, overrides)
    values = _fill_environment(values, "", faults, path)
    if faults:
        raise _config_error(faults, path)
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise _config_error(faults_of(error, str(path)), path) from None
    faults = _faults_of_space(study, str(path))
    if faults:
        raise _config_error(faults, path)
    return study


def dump_study(study: Study) -> str:
    """Return the study as YAML that :func:`load_study` reads back to an equal study."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, width=110)


def faults_of(error: ValidationError, file: str) -> list[Fault]:
    """Translate pydantic's errors into faults that name file and key, value, and what is allowed."""
    return [_fault(detail, file) for detail in error.errors(include_url=False)]


def _config_error(faults: list[Fault], path: Path) -> ConfigError:
    return ConfigError(faults, next_command=f"mend the file or add --set KEY=VALUE, then: rayvldd check {path}")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(str(found) for found in Path("search_spaces").glob("*.yaml"))
        hint = did_you_mean(str(path), known)
        raise ConfigError(
            [Fault(str(path), f"no such study file{hint}", ", ".join(known) or "the path of a YAML file")],
            next_command="rayvldd check search_spaces/quickstart.yaml",
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([Fault(str(path), f"not readable as YAML: {error}")]) from None
    if not isinstance(values, dict):
        raise ConfigError([Fault(str(path), f"holds {type(values).__name__}", "a mapping with the keys of a study")])
    return values


def _apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> list[Fault]:
    faults = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            faults.append(Fault(f"--set {override}", "has no '='", "--set KEY=VALUE, e.g. --set search.num_trials=4"))
            continue
        try:
            match = _SPACE_KEY.fullmatch(key)
            if match:  # the keys of the space are dotted themselves: search.space.distillation.syn_steps.high
                space = values.setdefault("search", {}).setdefault("space", {})
                space.setdefault(match[1], {})[match[2]] = yaml.safe_load(text)
            else:
                set_dotted(values, key, yaml.safe_load(text))
        except yaml.YAMLError as error:
            faults.append(Fault(f"--set {override}", f"the value is not YAML: {error}"))
        except TypeError as error:
            faults.append(Fault(f"--set {override}", str(error)))
    return faults


def _fill_environment(value: Any, key: str, faults: list[Fault], path: Path) -> Any:
    if isinstance(value, dict):
        return {k: _fill_environment(v, f"{key}.{k}" if key else str(k), faults, path) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill_environment(v, f"{key}[{i}]", faults, path) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    missing = [name for name in _ENVIRONMENT.findall(value) if name not in os.environ]
    faults.extend(
        Fault(
            f"{path}: {key}",
            f"the environment variable {name} is not set",
            f"export {name}=…, or --set {key}=…",
        )
        for name in missing
    )
    return value if missing else _ENVIRONMENT.sub(lambda found: os.environ[found[1]], value)


def _fault(detail: Any, file: str) -> Fault:
    location = [part for part in detail["loc"] if part not in _UNION_TAGS]
    key = ".".join(str(part) for part in location) or "study"
    where = f"{file}: {key}"
    if detail["type"] == "extra_forbidden":
        known = _known_keys(Study, location[:-1])
        return Fault(where, f"unknown key {location[-1]!r}{did_you_mean(str(location[-1]), known)}", ", ".join(known))
    if detail["type"] == "missing":
        return Fault(where, "is missing", "a value: this key has no default")
    message = detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    shown = "" if isinstance(given, dict | BaseModel) else f", got {given!r}"
    return Fault(where, message[0].lower() + message[1:] + (shown if repr(given) not in message else ""))


_UNION_TAGS = frozenset({"drawn", "folder", "karpathy", "blip", "float", "int", "choice", "bool", "str"})
"""Names that pydantic puts into an error's location for the member of a union; no setting bears them."""


def _known_keys(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """The keys allowed at a location, through sections and unions of sections."""
    models = [model]
    for part in location:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [inner for annotation in annotations for inner in _models_in(annotation)]
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, dict) or hasattr(annotation, "__metadata__"):
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []


def _setting_exists(key: str) -> bool:
    *path, last = key.split(".")
    return last in _known_keys(Study, path)


def _faults_of_space(study: Study, file: str) -> list[Fault]:
    """Check that every searched key exists, may be searched, and is valid at the ends of its domain."""
    faults = []
    known = [f"{s}.{k}" for s in SEARCHABLE_SECTIONS for k in _known_keys(Study, [s])]
    for key, domain in study.search.space.items():
        where = f"{file}: search.space.{key}"
        if key.split(".")[0] not in SEARCHABLE_SECTIONS or not _setting_exists(key):
            faults.append(
                Fault(
                    where,
                    f"no setting that can be searched{did_you_mean(key, known)}",
                    "model.*, experts.*, distillation.*",
                )
            )
        elif changes_experts(key) and isinstance(domain, FloatDomain):
            allowed = "int or choice: each value needs experts of its own"
            faults.append(Fault(where, "a float domain would need endlessly many expert sets", allowed))
    for number, point in enumerate(study.search.initial_points):
        where = f"{file}: search.initial_points[{number}]"
        faults += [
            _fault_of_point_value(study, where, key, value)
            for key, value in point.items()
            if not _is_in_space(study, key, value)
        ]
    return faults or _faults_of_corners(study, file)


def _is_in_space(study: Study, key: str, value: Any) -> bool:
    domain = study.search.space.get(key)
    if domain is None or isinstance(value, str) != isinstance(domain.corners()[0], str):
        return False
    return value in domain.values if isinstance(domain, ChoiceDomain) else domain.low <= value <= domain.high


def _fault_of_point_value(study: Study, where: str, key: str, value: Any) -> Fault:
    domain = study.search.space.get(key)
    if domain is None:
        hint = did_you_mean(key, study.search.space)
        return Fault(where, f"{key!r} is not searched{hint}", ", ".join(study.search.space))
    allowed = (
        ", ".join(map(str, domain.corners())) if isinstance(domain, ChoiceDomain) else f"{domain.low} to {domain.high}"
    )
    return Fault(where, f"{key}={value!r} is outside its domain", allowed)


def _faults_of_corners(study: Study, file: str) -> list[Fault]:
    """Validate the study at the ends of its domains, so that no trial can fail on its settings."""
    faults: dict[str, Fault] = {}
    for point in study.corners():
        try:
            study.at({**study.first_point(), **point})
        except ValidationError as error:
            shown = ", ".join(f"{key}={value}" for key, value in point.items())
            for fault in faults_of(error, f"{file}: search.space at {shown}"):
                faults.setdefault(fault.problem, fault)
    return list(faults.values())
