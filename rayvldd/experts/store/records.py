"""Records of a store of experts: one JSON file for each finished expert, and one for each set."""

from typing import NotRequired, TypedDict

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
