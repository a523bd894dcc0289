"""Types of parsed JSON and YAML, and readers of their parts that check the type of each part."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue
else:
    # Tests check signatures while they run, and their checker cannot resolve the recursive alias of pydantic, which
    # fields of pydantic models import from there.
    JsonValue = object

__all__ = ["JsonObject", "JsonValue", "list_at", "number_at", "object_at", "objects_at", "text_at", "value_at"]

JsonObject = dict[str, JsonValue]
"""A parsed object, e.g. a section of a file; its values are of any JSON type."""


def value_at(values: JsonValue | Mapping[str, JsonValue], *keys: str) -> JsonValue:
    """The value at nested keys; None if there is none, e.g. ``value_at(config, "provider", "type")``."""
    found: JsonValue | Mapping[str, JsonValue] = values
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) and not isinstance(found, dict) else found


def object_at(values: JsonValue | Mapping[str, JsonValue], *keys: str) -> JsonObject:
    """The object at nested keys; empty if there is none, or the value is no object."""
    found = value_at(values, *keys)
    return found if isinstance(found, dict) else {}


def list_at(values: JsonValue | Mapping[str, JsonValue], *keys: str) -> list[JsonValue]:
    """The list at nested keys; empty if there is none, or the value is no list."""
    found = value_at(values, *keys)
    return found if isinstance(found, list) else []


def objects_at(values: JsonValue | Mapping[str, JsonValue], *keys: str) -> list[JsonObject]:
    """The objects in the list at nested keys; entries that are no objects are left out."""
    return [entry for entry in list_at(values, *keys) if isinstance(entry, dict)]


def text_at(values: JsonValue | Mapping[str, JsonValue], *keys: str) -> str:
    """The value at nested keys as text; empty if there is none."""
    found = value_at(values, *keys)
    return "" if found is None else str(found)


def number_at(values: JsonValue | Mapping[str, JsonValue], *keys: str, default: float = 0.0) -> float:
    """The number at nested keys; ``default`` if there is none, or the value is no number."""
    found = value_at(values, *keys)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else default
