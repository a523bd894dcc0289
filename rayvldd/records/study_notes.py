"""Small files of a study's folder: its commands, seconds by stage, and the records that its tracker lacks."""

from typing import ClassVar

from pydantic import Field

from rayvldd.records.form import Record

_REMEDY = "move {file} away and repeat the command"


class StudyCommands(Record):
    """``commands.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the commands of a study"
    remedy: ClassVar[str] = _REMEDY

    commands: list[str] = Field(default_factory=list)
    """Command lines of its sessions, in order."""


class StudySeconds(Record):
    """``seconds.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the seconds of a study"
    remedy: ClassVar[str] = _REMEDY

    seconds: dict[str, float] = Field(default_factory=dict)
    """By stage, summed over all sessions."""


class UnsentRecords(Record):
    """``unsent.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the list of unsent records"
    remedy: ClassVar[str] = _REMEDY

    tracking_uri: str
    """The tracker that lacks them: its address, or the file's name of the embedded database."""
    missing: list[str]
    """The records, each with its reason."""
