"""Signatures name the types of what they take and return; objects of unknown content are for the edge of JSON alone.

Below its signature, a function fits a screen.
"""

import ast
from collections.abc import Iterator

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "rayvldd"

JSON_EDGE = {
    # Values given in Python, before their validation.
    "config/loading.py": {"load_study", "_with_overrides", "_mapping", "_apply_overrides"},
    "config/study.py": {"override"},
    # Methods that PyYAML and pydantic call.
    "config/study_files.py": {"construct_mapping"},
    "records/form.py": {"_without_unset"},
}
"""The functions with mappings of unknown values, by module."""

SCREEN = 60
"""Lines."""

MAPPINGS = {"dict", "Mapping", "MutableMapping", "defaultdict"}
UNKNOWN = {"Any", "object"}


def is_unknown_mapping(node: ast.AST) -> bool:
    """Whether an annotation is ``dict[str, Any]``, or a mapping of another name and key to values of unknown type."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
        return False
    name, value = ast.unparse(node.value).rpartition(".")[2], ast.unparse(node.slice.elts[-1])
    return name in MAPPINGS and value.rpartition(".")[2] in UNKNOWN


def annotations_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """Yield the annotations of a signature; those that are texts, for imports of type checking, are parsed."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for annotation in [*(one.annotation for one in named if one is not None), function.returns]:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            yield ast.parse(annotation.value, mode="eval")
        elif annotation is not None:
            yield annotation


def unknown_aliases(tree: ast.Module) -> Iterator[str]:
    """Yield the names of a module for types with such a mapping, with which signatures would hide it."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(map(is_unknown_mapping, ast.walk(node.value))):
            yield from map(ast.unparse, node.targets)


def unknown_mappings(tree: ast.AST) -> Iterator[str]:
    """Yield the name of every function with such a mapping in its signature."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = (part for annotation in annotations_of(node) for part in ast.walk(annotation))
            if any(map(is_unknown_mapping, parts)):
                yield node.name


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """The modules of the package by their files."""
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 300
    return {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def test_functions_fit_a_screen(trees: dict[str, ast.Module]) -> None:
    """Without signature and docstring, which are read before."""
    functions = (
        (name, node)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lines = {f"{name}: {node.name}": num_lines(node) for name, node in functions}
    assert len(lines) > 3000
    assert not {name: count for name, count in lines.items() if count > SCREEN}


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of lines of the body without its docstring."""
    has_docstring = ast.get_docstring(function, clean=False) is not None and len(function.body) > 1
    return (function.end_lineno or 0) - function.body[has_docstring].lineno + 1


def test_signatures_have_no_mappings_of_unknown_values(trees: dict[str, ast.Module]) -> None:
    found = {name: {*unknown_mappings(tree), *unknown_aliases(tree)} for name, tree in trees.items()}
    found = {name: names for name, names in found.items() if names}
    assert found == JSON_EDGE, "name the values in a record, a TypedDict, or with rayvldd.records.json_values"


@pytest.mark.parametrize(
    "signature",
    [
        "def f(a: dict[str, Any]) -> None: ...",
        "def f() -> list[Mapping[str, object]]: ...",
        "async def f(*, a: 'dict[str, Any] | None' = None): ...",
        "def f(**a: typing.Mapping[int, typing.Any]): ...",
    ],
)
def test_every_place_of_a_signature_is_read(signature: str) -> None:
    assert list(unknown_mappings(ast.parse(signature))) == ["f"]


def test_an_alias_of_a_mapping_is_read() -> None:
    assert list(unknown_aliases(ast.parse("Row = dict[str, object]\nCell = str | int\n"))) == ["Row"]


def test_known_values_are_allowed() -> None:
    assert not list(unknown_mappings(ast.parse("def f(a: dict[str, int], b: Any) -> Mapping[str, JsonValue]: ...")))
