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
_MOST_LINES = 12
"""Lines of another library's message that are kept; a state dictionary that does not fit fills three."""
_MOST_COLUMNS = 400
"""Characters of such a line; PyTorch names every weight of a model on one."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the input, tied to the place where the user can mend it."""

    where: str
    """File and key, e.g. ``quickstart.yaml: distillation.trajectory_matching.syn_steps``."""
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


def message_of(error: BaseException) -> str:
    """The message of an error that another library raised, to stand inside one of ours.

    Libraries often put the reason on a later line than the first. So all lines are kept, up to a bound, and further
    ones are set in. Characters that a terminal would act on, or cannot print, are shown by their escapes.
    """
    lines = [_printable(line.rstrip().expandtabs(2)) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    shown = [lines[0].strip(), *lines[1:]]
    if len(shown) > _MOST_LINES:
        # Of a traceback in text the last line has the reason, of most other messages the first.
        shown = [*shown[: _MOST_LINES - 2], f"... ({len(shown) - _MOST_LINES + 1} more lines)", shown[-1]]
    return "\n      ".join(line if len(line) <= _MOST_COLUMNS else f"{line[:_MOST_COLUMNS]}..." for line in shown)


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, or nothing when none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
