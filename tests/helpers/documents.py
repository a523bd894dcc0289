"""Code in the pages of the documentation."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return [text for found, text in _BLOCK.findall(document.read_text(encoding="utf-8")) if found == language]


def inline_code(document: Path) -> list[str]:
    """The code in the running text and the tables of a page; what a line break divides is on one line."""
    text = _BLOCK.sub("", document.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def calls_in(document: Path, replacements: Mapping[str, str]) -> Iterator[str]:
    """Calls of functions of modules and objects in the running text and the tables of a page, as Python.

    Args:
        document: The page.
        replacements: What a reader puts in place of parts of them.
    """
    for code in inline_code(document):
        for written, meant in replacements.items():
            code = code.replace(written, meant)
        try:
            called = ast.parse(code, mode="eval").body
        except SyntaxError:
            continue
        if isinstance(called, ast.Call) and isinstance(called.func, ast.Attribute):
            yield code
