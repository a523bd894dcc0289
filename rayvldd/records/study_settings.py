"""The settings of a study when it was started, in its folder."""

from typing import ClassVar

from pydantic import JsonValue

from rayvldd.records.form import Record


class StudySettings(Record):
    """``study.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the settings of a study"
    remedy: ClassVar[str] = "rayvldd sweep STUDY.yaml --set name=ANOTHER, which begins a new study"

    settings: dict[str, JsonValue]
    """Sections and settings as in a study file, with defaults."""
