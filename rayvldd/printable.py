"""Text for a terminal: captions, names and paths may contain control bytes that it obeys; values of settings."""

import re
import textwrap
from collections.abc import Iterator

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""All control characters but line feed and tab, and those that reverse the direction of what follows."""

_PASSWORDS = re.compile(r"(://[^/\s:@'\"]*:)[^/\s@'\"]+@")
"""User, password and host of an address."""

_REST = r"(?:'[^']*'|(?!, |; | \(| after |`).)*"
COMMAND = re.compile(r"\brayvldd ([a-z]+)\b" + _REST)
"""A command in a sentence, by its verb, up to the next comma, semicolon, parenthesis or condition outside quotation
marks."""
_ANY_COMMAND = re.compile(r"(?<![\w/.-])(?:rayvldd|pip|ray|hf|kubectl|wandb|mlflow) [a-z][a-z-]*\b" + _REST)
"""The same of this program, or of one that a message tells to run."""
_JOIN = "\ue000"
"""In place of the space of a command without arguments, which stays in its sentence; of Unicode's private use."""
_BARE = re.compile(r"\brayvldd ([a-z]+)(?=[.,;)`]|$| \(| after )")
_JOINED = rf"rayvldd{_JOIN}\1"
_AFTER_COMMAND = re.compile(r"^(?:\s|[,;.](?=\s|$))+")
"""Punctuation that a command of its own line does without; not the points of ``../folder``."""
_FIRST_COLUMN = re.compile(r"\s*\S+(?: \S+)*?  +")
"""A name or label at the start of a line, and the gap after it."""


def printable(text: str) -> str:
    r"""Return text whose control characters are spelt out, e.g. ``\x1b``, so that a terminal shows them."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(number: float, noun: str) -> str:
    """Return a number with its noun in singular or plural: 1 pair, 2 pairs, 0.5 GPUs.

    Args:
        number: Number of things.
        noun: What there is one of, with a plural in -s.
    """
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def fitted(text: str, width: int) -> str:
    """Break lines that are wider than a terminal between words, which the terminal itself would break anywhere.

    A command is not broken, so that it can be copied: in a line that is too wide, one with arguments is a line of its
    own, after a label if it has one and without the comma after it. A word, e.g. a path, stays whole, too.

    Args:
        text: Any text.
        width: Characters in a line of the terminal.
    """
    return "\n".join(_fitted_line(line, width) for line in text.split("\n"))


def _fitted_line(line: str, width: int) -> str:
    """Break a line; what follows its first column stays below what follows it in the first line."""
    if len(line) <= width:
        return line
    column = _FIRST_COLUMN.match(line)
    indent = len(column[0]) if column else 0
    if not 0 < indent <= width // 3:
        indent = len(line) - len(line.lstrip()) + 2
    return "\n".join(_pieces(line, width, indent)).replace(_JOIN, " ")


def _pieces(line: str, width: int, indent: int) -> Iterator[str]:
    """The lines of a line that is too wide: commands whole, the text around them wrapped."""
    end, label = 0, ""
    line = _BARE.sub(_JOINED, line)
    for command in _ANY_COMMAND.finditer(line):
        before = line[end : command.start()]
        if not end and (before.isspace() or len(before) == indent or before == "Next: "):
            label = before
        else:
            yield from _wrapped(before, width, indent, is_first=not end)
        yield (label or " " * indent) + command[0].rstrip()
        end, label = command.end(), ""
    yield from _wrapped(line[end:], width, indent, is_first=not end)


def _wrapped(text: str, width: int, indent: int, *, is_first: bool) -> list[str]:
    """Wrap the text before, between or after commands."""
    if not is_first:
        text = _AFTER_COMMAND.sub("", text)
    return textwrap.wrap(
        text,
        width,
        initial_indent="" if is_first else " " * indent,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
    )


def without_passwords(text: str) -> str:
    """Return text with ``***`` in place of the passwords of its addresses, e.g. of a tracking server."""
    return _PASSWORDS.sub(r"\1***@", text)


def value_as_text(value: object) -> str:
    """Format the value of a setting as in a study file: ``null`` and ``[color, crop]``."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_as_text, value))}]"
    return "null" if value is None else str(value)


def quoted(value: object) -> str:
    """Format a value that is at fault: like :func:`value_as_text`, with quotation marks around a text."""
    return repr(value) if isinstance(value, str) else value_as_text(value)
