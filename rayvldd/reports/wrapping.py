"""Text in lines of at most a width, on a terminal in cells and on a picture in pixels."""

import re
from collections.abc import Callable
from typing import Final

_MARK: Final = re.compile(r"(?<=\S) (?=(?:\*|%|\(\d+\))(?: |$))")
"""The space before a mark, a unit or a number of students, which does not stand on a line of its own."""
_SEPARATORS: Final = "_/-"
"""Characters of names behind which a line may end."""


def wrapped(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Divide a text into lines that end between words, or within a word that is longer than a line.

    Such a word, a name or a path, ends a line behind a separator if it has one. A mark and a unit stay in a line with
    the end of the word before them.

    Args:
        text: Any text; its own lines stay.
        width: Of a line.
        measure: Returns the width of a text.
    """
    lines: list[str] = []
    for line in text.splitlines():
        if measure(line) <= width:
            lines.append(line)
            continue
        whole = ""
        for word in words_of(line):
            if whole and measure(f"{whole} {word}") <= width:
                whole = f"{whole} {word}"
                continue
            *ended, whole = [*([whole] if whole else []), *_parts_of_name(word, width, measure)]
            lines += ended
        lines.append(whole)
    return lines


def words_of(line: str) -> list[str]:
    """The words of a line, each with the mark that follows it."""
    return [word.replace("\0", " ") for word in _MARK.sub("\0", line).split(" ") if word]


def _parts_of_name(word: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """A word and its mark in parts of at most a width; the last part has the mark and the end of the word."""
    name, space, mark = word.partition(" ")
    parts = []
    while measure(name + space + mark) > width and len(name) > 1:
        most = max(1, sum(measure(name[: place + 1]) <= width for place in range(len(name) - 1)))
        end = max(name.rfind(separator, 0, most) for separator in _SEPARATORS) + 1
        parts.append(name[: end or most])
        name = name[end or most :]
    return [*parts, name + space + mark]
