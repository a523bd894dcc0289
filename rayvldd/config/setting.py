"""Metadata of settings, declared on the field and used by all other modules.

The options of :func:`setting` state, for example, whether a setting is part of the identity of an expert set, whether
an unfinished study can continue with another value, and whether it changes the recall of a trial. A section passes
its options on to the settings inside it, which may override them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from types import UnionType
from typing import Any, TypedDict, TypeVar, Union, Unpack, get_args, get_origin, overload

from pydantic import Field, JsonValue

from rayvldd.config.base import Settings


class MayChange(StrEnum):
    """Until when a study may continue with another value of a setting."""

    NEVER = "never"
    """The setting is part of the study's identity."""
    UNTIL_CHOSEN = "until chosen"
    """The setting determines the choice of the best set."""
    UNTIL_FINISHED = "until finished"
    """The setting determines the length or speed of the search."""
    ALWAYS = "always"
    """The setting concerns only the machine."""

    def allows(self, *, chosen: bool, finished: bool) -> bool:
        """Whether a study in this state may continue with another value."""
        match self:
            case MayChange.NEVER:
                return False
            case MayChange.UNTIL_CHOSEN:
                return not (chosen or finished)
            case MayChange.UNTIL_FINISHED:
                return not finished
            case MayChange.ALWAYS:
                return True


@dataclass(frozen=True)
class SettingInfo:
    """Metadata of one setting; the defaults apply to settings without options."""

    unit: str = ""
    """Unit of the value, e.g. ``pixels``; empty for dimensionless numbers and choices."""
    source: str = ""
    """Source of the default or its range, e.g. ``Wu et al.: 8``."""
    may_change: MayChange = MayChange.NEVER
    """Until when a study may continue with another value."""
    searchable: bool = False
    """Whether it can be searched. Data and evaluation cannot: they are the same for all trials of a study."""
    in_point: bool = True
    """Whether it is part of a point, so determines a distillation; otherwise it concerns the search."""
    changes_experts: bool = False
    """Whether another value may need other experts."""
    by_content: bool = False
    """Whether the fingerprints of data and encoders represent it; its value, e.g. a folder, is then not compared."""
    changes_recall: bool = True
    """Whether it changes the expected validation recall of a trial."""
    in_state: bool = True
    """Whether the state of an interrupted distillation depends on it; if not, the run can resume with another value."""
    only_where: tuple[str, str] | None = None
    """(dotted key, value) of another setting: this setting has an effect only if the other has that value."""

    def has_effect(self, values: JsonValue) -> bool:
        """Whether this setting has an effect, given the settings in ``values``."""
        return self.only_where is None or setting_at(values, self.only_where[0]) == self.only_where[1]


class SettingOptions(TypedDict, total=False):
    """Options of :func:`setting`: bounds, which pydantic checks, and the fields of :class:`SettingInfo`."""

    ge: float
    gt: float
    le: float
    lt: float
    min_length: int
    unit: str
    source: str
    may_change: MayChange
    searchable: bool
    in_point: bool
    changes_experts: bool
    by_content: bool
    changes_recall: bool
    in_state: bool
    only_where: tuple[str, str]


_METADATA = "setting"
"""Key of the metadata in a field's JSON schema."""
_INFO_FIELDS = frozenset(field.name for field in fields(SettingInfo))

T = TypeVar("T")


@overload
def setting(default: T, /, **options: Unpack[SettingOptions]) -> T: ...
@overload
def setting(**options: Unpack[SettingOptions]) -> Any: ...
def setting(default: Any = ..., /, **options: Unpack[SettingOptions]) -> Any:
    """Declare a setting of a section with default, bounds and metadata; without a default it is required.

    Args:
        default: Value if a study does not state one.
        options: Bounds as in :func:`pydantic.Field`, and the fields of :class:`SettingInfo`.
    """
    bounds: dict[str, Any] = {name: value for name, value in options.items() if name not in _INFO_FIELDS}
    stated: dict[str, Any] = {name: value for name, value in options.items() if name in _INFO_FIELDS}
    return Field(default, json_schema_extra={_METADATA: stated} if stated else None, **bounds)


# --- reading the metadata -----------------------------------------------------------------------------------------


def settings_below(section: type[Settings]) -> Mapping[str, SettingInfo]:
    """All settings of a section and its subsections, by dotted key.

    For a section with alternatives, e.g. the sources of the data, the settings of all alternatives are included; the
    metadata of equal keys may differ only in unit and source.
    """
    found: dict[str, SettingInfo] = {}
    for key, info in _walk(section, "", SettingInfo()):
        found.setdefault(key, info)
    return found


def _walk(section: type[Settings], prefix: str, inherited: SettingInfo) -> Iterator[tuple[str, SettingInfo]]:
    for name, field in section.model_fields.items():
        extra = field.json_schema_extra
        own: Any = extra.get(_METADATA, {}) if isinstance(extra, dict) else {}
        metadata = replace(inherited, **own)
        inside = sections_in(field.annotation)
        for below in inside:
            yield from _walk(below, f"{prefix}{name}.", metadata)
        if not inside:
            yield f"{prefix}{name}", metadata
    for name, below in section.further_sections().items():
        yield from _walk(below, f"{prefix}{name}.", inherited)


def info_of(known: Mapping[str, SettingInfo], key: str) -> SettingInfo | None:
    """The metadata at a dotted key or a key inside a mapping-valued setting; None if there is no such setting."""
    while key not in known:
        key, dot, _ = key.rpartition(".")
        if not dot:
            return None
    return known[key]


def sections_in(annotation: object) -> list[type[Settings]]:
    """The sections that a field's annotation allows: none for a plain value, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType) or hasattr(annotation, "__metadata__"):
        return [section for argument in get_args(annotation) for section in sections_in(argument)]
    return []


def setting_at(values: JsonValue, key: str) -> JsonValue:
    """The value at a dotted key of nested settings; None if there is no such setting."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def flat_settings(values: JsonValue, key: str = "") -> dict[str, JsonValue]:
    """Flatten nested settings to dotted keys; lists are values."""
    if not isinstance(values, dict) or not values:
        return {key: values}
    below = (flat_settings(inner, f"{key}.{name}" if key else name) for name, inner in values.items())
    return {inner_key: value for inner in below for inner_key, value in inner.items()}


def changed_from(before: JsonValue, values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Those of ``values``, by dotted key, that nested settings have otherwise; what these lack does not count."""
    known = flat_settings(before)
    return {key: value for key, value in values.items() if key in known and known[key] != value}


def selected(settings: Settings, which: Callable[[SettingInfo], bool]) -> dict[str, JsonValue]:
    """The settings that ``which`` selects by their metadata, as nested JSON values; empty sections are left out."""
    return _selected(settings.model_dump(mode="json"), "", settings_below(type(settings)), which)


def _selected(
    values: Mapping[str, JsonValue],
    prefix: str,
    known: Mapping[str, SettingInfo],
    which: Callable[[SettingInfo], bool],
) -> dict[str, JsonValue]:
    part: dict[str, JsonValue] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        below = [info for inner, info in known.items() if inner.startswith(f"{key}.")]
        if below and isinstance(value, dict):
            inside = _selected(value, f"{key}.", known, which)
            part |= {name: inside} if inside else {}
        elif any(which(info) for info in below or [known.get(key, SettingInfo())]):
            part[name] = value
    return part
