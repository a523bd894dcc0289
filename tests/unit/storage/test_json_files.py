"""JSON of any origin is parsed by one function, whose faults are all of one type."""

import ast

import pytest
from helpers.paths import ROOT

from rayvldd.storage.json_files import json_value, json_values, parsed

PARSE_THEIR_OWN = {
    "clusters/ray_schema.py",  # a file of the installed Ray
    "experts/store/expert_records.py",  # text that it has just written
    "models/text_identity.py",  # text that the tokenizer has just written
    "storage/json_files.py",
    "tracking/mlflow_pages.py",  # the answer of the server that it has started
}
"""Modules that call the parser of the standard library, whose faults are of two types."""


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, b"\xff", "nothing"])
def test_every_fault_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_value(text)
    assert parsed(text if isinstance(text, bytes) else text.encode()) is None


def test_a_line_ends_at_a_line_feed_alone() -> None:
    assert json_values('{"a": "\u2028"}\n\n[1]\n') == [{"a": "\u2028"}, [1]]


def test_no_other_module_calls_the_parser_itself() -> None:
    package = ROOT / "rayvldd"
    found = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) == "json"
    }
    assert found == PARSE_THEIR_OWN, "parse with rayvldd.storage.json_files"
