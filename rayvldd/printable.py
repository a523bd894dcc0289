"""Text for a terminal: captions, names and paths may contain control bytes that it obeys; values of settings."""

import re
import textwrap

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""All control characters but line feed and tab, and those that reverse the direction of what follows."""

_PASSWORDS = re.compile(r"(://[^/\s:@'\"]*:)[^/\s@'\"]+@")
"""User, password and host of an address."""

_COMMAND = re.compile(r"\brayvldd [a-z]")
_FIRST_COLUMN = re.compile(r"\s*\S+(?: \S+)*?  +")
"""A name or label at the start of a line, and the gap after it."""


def printable(text: str) -> str:
    r"""Return text whose control characters are spelt out, e.g. ``\x1b``, so that a terminal shows them."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def fitted(text: str, width: int) -> str:
    """Break lines that are wider than a terminal between words, which the terminal itself would break anywhere.

    A line with a command stays whole, so that it can be copied; so does a word, e.g. a path.

    Args:
        text: Any text.
        width: Characters in a line of the terminal.
    """
    return "\n".join(_fitted_line(line, width) for line in text.split("\n"))


def _fitted_line(line: str, width: int) -> str:
    """Break a line; what follows its first column stays below what follows it in the first line."""
    if len(line) <= width or _COMMAND.search(line):
        return line
    column = _FIRST_COLUMN.match(line)
    indent = len(column[0]) if column else 0
    if not 0 < indent <= width // 3:
        indent = len(line) - len(line.lstrip()) + 2
    pieces = textwrap.wrap(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False, expand_tabs=False
    )
    return "\n".join(pieces)


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
