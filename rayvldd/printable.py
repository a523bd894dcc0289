"""Text for a terminal: captions, names and paths may contain control bytes that it obeys; values of settings."""

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""All control characters but line feed and tab, and those that reverse the direction of what follows."""

_PASSWORDS = re.compile(r"(://[^/\s:@'\"]*:)[^/\s@'\"]+@")
"""User, password and host of an address."""


def printable(text: str) -> str:
    r"""Return text whose control characters are spelt out, e.g. ``\x1b``, so that a terminal shows them."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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
