"""Exceptions for errors that the user can correct.

A message states the problem, the given value, the allowed values and the next command. Functions that read input
collect all faults and raise once, so that a file can be corrected in one go.
"""

import copyreg
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from rayvldd.printable import counted, without_passwords

_MOST_SHOWN = 20
"""Maximum number of faults in a message; a dataset without any images must not flood the terminal."""
_MOST_LINES = 12
"""Maximum number of lines of another library's message; a state dictionary that does not match needs three."""
_MOST_COLUMNS = 400
"""Maximum length of such a line in characters; PyTorch lists all weights of a model on one line."""
_LONGEST_FAULT = 2000
"""Maximum length of a fault in a message in characters; a damaged file may have a name of megabytes."""


@dataclass(frozen=True)
class Fault:
    """One fault of the input, with the location where the user can correct it."""

    where: str
    """File and key, e.g. ``quickstart.yaml: distillation.trajectory_matching.syn_steps``."""
    problem: str
    """The problem, with the given value."""
    allowed: str = ""
    """Allowed values."""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f"; allowed: {self.allowed}" if self.allowed else "")


def _encodable(text: str) -> str:
    """Return a text that can be printed: half of an emoji becomes its escape."""
    return text.encode(errors="backslashreplace").decode()


class RayvlddError(Exception):
    """Base class of errors that the user can correct; the command line prints them without a traceback."""

    def __init__(self, message: str, *, next_command: str = "") -> None:
        self.next_command = _encodable(next_command)
        super().__init__(_encodable(message) + (f"\nNext: {self.next_command}" if next_command else ""))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the final message, because the arguments of ``__init__`` are not stored."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InputError(RayvlddError):
    """Input with one or more faults: all are in ``faults``, the first ones in the message."""

    def __init__(self, faults: Iterable[Fault], *, next_command: str = "") -> None:
        self.faults = list(faults)
        count = len(self.faults)
        lines = [f"{counted(count, 'fault')} found, nothing was started:"]
        lines += [f"  {_shortened(str(fault))}" for fault in self.faults[:_MOST_SHOWN]]
        if count > _MOST_SHOWN:
            lines.append(f"  and {count - _MOST_SHOWN} more")
        super().__init__("\n".join(lines), next_command=next_command)

    def below(self, prefix: str) -> "InputError":
        """The error with a prefix before the location of each fault, e.g. the option that named a file."""
        faults = [Fault(prefix + fault.where, fault.problem, fault.allowed) for fault in self.faults]
        return InputError(faults, next_command=self.next_command)


class ConfigError(InputError):
    """An invalid study file or ``--set`` override."""


class DataError(InputError):
    """A dataset with missing images, empty captions or splits, or unreadable annotations."""


class ModelError(InputError):
    """An encoder, a weights file or an adapter target that does not exist or does not match."""


class StoreError(RayvlddError):
    """A folder or file that cannot be read or written, or that is damaged."""


class OutageError(StoreError):
    """A storage that does not answer, or cannot be read or written for now: the same work may succeed later."""


class DivergedError(RayvlddError):
    """A training or matching loss that is not finite; the trial counts as failed."""


def message_of(error: BaseException) -> str:
    """Format the message of another library's error for use inside a message of this package.

    Since the reason is often not in the first line, all lines are kept up to a limit, and further lines are indented.
    Passwords in addresses are hidden. Control characters and characters that cannot be printed are replaced by their
    escapes.
    """
    lines = [
        _printable(line.rstrip().expandtabs(2)) for line in without_passwords(str(error)).splitlines() if line.strip()
    ]
    if not lines:
        return type(error).__name__
    shown = [lines[0].strip(), *lines[1:]]
    if len(shown) > _MOST_LINES:
        # The reason is in the last line of a traceback, and in the first line of most other messages.
        shown = [*shown[: _MOST_LINES - 2], f"... ({len(shown) - _MOST_LINES + 1} more lines)", shown[-1]]
    return "\n      ".join(line if len(line) <= _MOST_COLUMNS else f"{line[:_MOST_COLUMNS]}..." for line in shown)


def without_next_command(error: BaseException) -> str:
    """Format the message of any error for use inside another message; those of this package lose their next command."""
    if isinstance(error, RayvlddError):
        return str(error).partition("\nNext: ")[0]
    return message_of(error)


_THEM, _OTHERS = "correct them, ", "correct the others, "


def next_after(errors: Sequence[RayvlddError], command: str) -> str:
    """The next commands of errors that are raised as one, and the command that found them.

    A command of ``rayvldd check STUDY.yaml`` only looks for the same errors again, and is left out.
    """
    own = [text for error in errors if (text := _before(error.next_command, command))]
    if not own:
        return f"{_THEM}then: {command}"
    last = "then: " if len(own) == len(errors) else f"{_OTHERS}then: "
    return "\n      ".join([*dict.fromkeys(own), last + command])


def _before(next_command: str, command: str) -> str:
    """The next commands of an error before the one that found it; empty if there are none."""
    text = next_command.removesuffix(f"then: {command}").removesuffix(_THEM).removesuffix(_OTHERS).rstrip()
    return "" if "rayvldd check STUDY.yaml" in text else text


def _shortened(text: str) -> str:
    left_out = len(text) - _LONGEST_FAULT
    half = _LONGEST_FAULT // 2
    return text if left_out <= 0 else f"{text[:half]}... ({left_out} more characters) ...{text[-half:]}"


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the most similar known name, or an empty text if none is similar."""
    close = get_close_matches(name, [other for other in known if other != name], n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
