"""The imports of Python files; each file is parsed once in a process."""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """An imported module, or a name of it."""

    line: int
    module: str
    """With a leading period for each level of a relative import."""
    name: str
    """The name that is imported from the module; empty if it is the module."""

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


@cache
def imports_of(file: Path) -> tuple[Import, ...]:
    """All imports of a file, also those inside functions and below ``if TYPE_CHECKING``."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}"
            found += [Import(node.lineno, module, alias.name) for alias in node.names]
    return tuple(found)
