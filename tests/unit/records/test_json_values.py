"""Readers of the parts of parsed JSON: a part that is missing or of another kind is empty, never an exception."""

import pytest

from rayvldd.records.json_values import JsonValue, list_at, number_at, object_at, objects_at, text_at, value_at

FILE: JsonValue = {"head": {"size": 3, "names": ["a", {"b": 1}], "text": "t", "on": True, "none": None}, "list": [1]}


def test_parts_are_found_at_nested_keys() -> None:
    assert value_at(FILE, "head", "size") == 3
    assert object_at(FILE, "head")["text"] == "t"
    assert list_at(FILE, "list") == [1]
    assert objects_at(FILE, "head", "names") == [{"b": 1}]
    assert text_at(FILE, "head", "size") == "3"
    assert number_at(FILE, "head", "size") == 3
    assert value_at(FILE) == FILE


@pytest.mark.parametrize("keys", [("other",), ("list", "inner"), ("head", "none"), ("head", "text", "deep")])
def test_a_missing_part_is_empty(keys: tuple[str, ...]) -> None:
    assert value_at(FILE, *keys) is None
    assert object_at(FILE, *keys) == {}
    assert list_at(FILE, *keys) == objects_at(FILE, *keys) == []
    assert text_at(FILE, *keys) == ""
    assert number_at(FILE, *keys, default=2.0) == 2.0


def test_a_part_of_another_kind_is_empty() -> None:
    assert object_at(FILE, "list") == {} and list_at(FILE, "head") == []
    assert number_at(FILE, "head", "on") == 0.0, "true is no number"
