"""The one family of errors that users see.

A message says what was wrong, the value that was given, what is allowed and what to run next. Everything
that reads input collects all its faults first and raises once, so that a file is mended in one go.
"""

import copyreg
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

_MOST_SHOWN = 20
"""Faults that a message lists; a dataset with every image missing must not flood the terminal."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the input, tied to the place where the user can mend it."""

    where: str
    """File and key, e.g. ``quickstart.yaml: distillation.syn_steps``."""
    problem: str
    """What is wrong, with the value that was given."""
    allowed: str = ""
    """What would be accepted instead."""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f"; allowed: {self.allowed}" if self.allowed else "")


class RayvlddError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""

    def __init__(self, message: str, *, next_command: str = "") -> None:
        self.next_command = next_command
        super().__init__(message + (f"\nNext: {next_command}" if next_command else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as the finished message: the arguments of ``__init__`` are not kept."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InputError(RayvlddError):
    """Input with one or more faults: all of them in ``faults``, the first ones in the message."""

    def __init__(self, faults: Iterable[Fault], *, next_command: str = "") -> None:
        self.faults = list(faults)
        count = len(self.faults)
        lines = [f"{count} fault{'' if count == 1 else 's'} found, nothing was started:"]
        lines += [f"  {fault}" for fault in self.faults[:_MOST_SHOWN]]
        if count > _MOST_SHOWN:
            lines.append(f"  and {count - _MOST_SHOWN} more")
        super().__init__("\n".join(lines), next_command=next_command)


class ConfigError(InputError):
    """A study file, or a ``--set`` beside it, that cannot be used as it is."""


class DataError(InputError):
    """A dataset with missing images, empty captions or splits, or unreadable annotations."""


class ModelError(InputError):
    """An encoder, a weights file or an adapter target that does not exist or does not fit."""


class StoreError(RayvlddError):
    """A folder or file of the workspace that cannot be written, read or trusted."""


class DivergedError(RayvlddError):
    """A training or matching loss that is no longer finite: the trial failed, it did not finish."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, or nothing when none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
