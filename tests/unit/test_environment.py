"""The environment of a process does not change while threads run: it is set where a package is imported, if at all."""

import ast
from collections.abc import Iterator

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "rayvldd"

SET_ON_IMPORT = {
    "tracking/__init__.py": "MLflow reads its variables when it is imported",
    "runtime/__init__.py": "Ray's processes inherit theirs",
    "hyperparameter_search/tune_adapter.py": "settings that Tune has as variables alone",
}
"""The modules that set variables, each with its reason, and only at the top level of the module."""

CHANGING_METHODS = {"update", "setdefault", "pop", "popitem", "clear", "__setitem__", "__delitem__"}


def is_environ(node: ast.AST) -> bool:
    return ast.unparse(node) in ("os.environ", "environ", "os.environb")


def changes(node: ast.AST) -> bool:
    """Whether a statement or call changes the environment of the process."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
        inside = (target.value if isinstance(target, ast.Subscript) else target for target in targets)
        return any(is_environ(target) for target in inside)
    if isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in CHANGING_METHODS and is_environ(function.value):
            return True
        return ast.unparse(function) in ("os.putenv", "os.unsetenv", "putenv", "unsetenv")
    return False


def lines_of_changes(tree: ast.AST, *, in_functions_only: bool) -> Iterator[int]:
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    for root in functions if in_functions_only else [tree]:
        yield from (getattr(node, "lineno", 0) for node in ast.walk(root) if changes(node))


def test_only_named_modules_change_the_environment() -> None:
    """Others pass an environment to a process, or set it where the package is imported."""
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    assert len(files) > 300
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        lines = list(lines_of_changes(tree, in_functions_only=name in SET_ON_IMPORT))
        assert lines == [], f"{name}: changes os.environ"


@pytest.mark.parametrize("name", SET_ON_IMPORT)
def test_named_modules_do_change_it(name: str) -> None:
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    assert list(lines_of_changes(tree, in_functions_only=False)), "strike it from the list of this test"


@pytest.mark.parametrize(
    "line",
    [
        "os.environ['A'] = 'b'",
        "os.environ |= {}",
        "del os.environ['A']",
        "os.environ.setdefault('A', 'b')",
        "before = os.environ.pop('A')",
        "environ.update({})",
        "os.putenv('A', 'b')",
    ],
)
def test_every_kind_of_change_is_found(line: str) -> None:
    assert list(lines_of_changes(ast.parse(f"def f():\n    {line}"), in_functions_only=True)) == [2]
    assert not changes(ast.parse("os.environ.get('A')").body[0])
