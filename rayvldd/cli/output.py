"""Common parts of the objects of ``--json``; each command declares its own object next to itself."""

from pydantic import ConfigDict, JsonValue

from rayvldd.errors import Fault
from rayvldd.records.form import Values

PlanLines = dict[str, str | int]
"""Plan of a command: a text or number by the name of its line."""


class Output(Values):
    """The object of ``--json`` of one command; optional values that are not given are left out."""

    # `rayvldd --help` imports all commands, and most calls print no object: its validator is built on first use.
    model_config = ConfigDict(defer_build=True, allow_inf_nan=True)


class PlanOutput(Output):
    """Settings and plan of a study, for ``--dry-run``."""

    study: str
    settings: dict[str, JsonValue]
    plan: PlanLines


class ErrorOutput(Output):
    """The end of a command with an error."""

    error: str
    message: str
    faults: list[Fault]
    next_command: str


class InterruptionOutput(Output):
    """The end of an interrupted command."""

    error: str = "Interrupted"
    kept: str
    next_command: str
