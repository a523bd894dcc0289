"""Records of a store of experts: one JSON file for each finished expert, and one for each set."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict, TypeGuard, cast

from rayvldd.records.json_values import JsonValue


class SharedStart(TypedDict):
    """The file with the image side of an initial state, which several experts share."""

    name: str
    checksums: dict[str, str]


class ExpertRecord(TypedDict):
    """Record of a finished expert; it is written last, and an expert without a record does not exist."""

    recipe: str
    """Key of its set."""
    index: int
    """Number of the expert in its set."""
    epochs: list[int]
    """Stored epochs."""
    storage: str
    seconds: float
    metrics: list[dict[str, float]]
    """By epoch."""
    movements: NotRequired[list[list[list[float]]]]
    """How far each tensor moved in every epoch, of the image and of the text side."""
    origin: NotRequired[JsonValue]
    """Where an imported expert is from."""
    start: SharedStart | None
    rayvldd_version: str
    bytes: int
    checksums: dict[str, str]
    """Checksum of every tensor by name."""


class SetManifest(TypedDict):
    """Manifest of a set: the recipe of its experts, and the form of their parameters."""

    format: int
    rayvldd_version: str
    key: str
    storage: str
    layout: dict[str, list[tuple[str, list[int]]]]
    """Name and shape of every parameter, by side."""
    recipe: dict[str, JsonValue]


def record_of(content: Mapping[str, JsonValue] | None, key: str) -> ExpertRecord | None:
    """The record in a file of the set ``key``; None for that of another set, or one with missing or other values."""
    if content is None or content.get("recipe") != key or not ExpertRecord.__required_keys__ <= content.keys():
        return None
    start, epochs, metrics = (content.get(name) for name in ("start", "epochs", "metrics"))
    is_whole = (
        _are_checksums(content.get("checksums"))
        and _is_count(content.get("bytes"))
        and _is_number(content.get("seconds"))
        and (start is None or (isinstance(start, dict) and isinstance(start.get("name"), str)))
        and (start is None or (isinstance(start, dict) and _are_checksums(start.get("checksums"))))
        and (isinstance(epochs, list) and all(map(_is_count, epochs)))
        and (isinstance(metrics, list) and all(map(_are_numbers, metrics)))
        and _are_movements(content.get("movements", []))
    )
    return cast(ExpertRecord, content) if is_whole else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_checksums(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(checksum, str) for checksum in value.values())


def _are_movements(value: object) -> bool:
    """Whether these are two lists of numbers for each epoch."""
    return isinstance(value, list) and all(
        isinstance(epoch, list)
        and len(epoch) == 2
        and all(isinstance(side, list) and all(map(_is_number, side)) for side in epoch)
        for epoch in value
    )
