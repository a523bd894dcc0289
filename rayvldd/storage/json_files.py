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


def json_value(text: str | bytes) -> JsonValue:
    """Parse JSON of any origin.

    Raises:
        ValueError: for every fault of the text, also for nesting that the parser does not follow.
    """
    try:
        value: JsonValue = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def json_values(text: str) -> list[JsonValue]:
    """Parse a file of JSON lines; empty lines are passed over.

    Raises:
        ValueError: as :func:`json_value`.
    """
    # str.splitlines would also split at characters that are allowed within JSON texts, such as U+2028.
    return [json_value(line) for line in text.split("\n") if line.strip()]


def parsed(content: bytes | None) -> dict[str, JsonValue] | None:
    """Parse the object in a JSON file; None if the content is missing or not a valid object."""
    try:
        value = json_value(content) if content is not None else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
