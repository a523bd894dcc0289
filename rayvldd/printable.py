"""Text of others for a terminal: captions, names and paths may contain control bytes that a terminal obeys."""

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""All control characters but line feed and tab, and those that reverse the direction of what follows."""


def printable(text: str) -> str:
    r"""Return text whose control characters are spelt out, e.g. ``\x1b``, so that a terminal shows them."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
