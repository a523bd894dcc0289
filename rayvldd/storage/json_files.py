"""Read JSON files, and write them atomically as strict JSON."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from rayvldd.storage.atomic import write_bytes_whole


def write_json_whole(path: Path, value: object) -> None:
    """Write strict JSON atomically; a number that is not finite becomes null."""
    write_bytes_whole(path, json_text(value))


def json_text(value: object) -> bytes:
    """Encode a value as strict JSON; a number that is not finite becomes null."""
    text = json.dumps(_strict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")  # half of an emoji has no bytes; its escape is one of JSON too


def _strict(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def parsed(content: bytes | None) -> dict[str, JsonValue] | None:
    """Parse the object in a JSON file; None if the content is missing or not a valid object."""
    try:
        value = json.loads(content) if content is not None else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
