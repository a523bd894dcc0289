"""YAML that is hostile or nonsense: refused by our own errors, before it takes time or memory."""

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayvldd.clusters.cluster_file import read_cluster_file
from rayvldd.config.bounded_yaml import MOST_CHARACTERS, MOST_VALUES, parsed_documents
from rayvldd.config.loading import load_study
from rayvldd.config.setting import setting_at
from rayvldd.config.study_files import parsed_yaml, yaml_text
from rayvldd.errors import ConfigError

_LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
_MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30))

HOSTILE = {
    "aliases of 10^9 values": (_LAUGHS, f"more than {MOST_VALUES} values"),
    "merges of 2^29 values": (_MERGES, f"more than {MOST_VALUES} values"),
    "a list in itself": ("data: &a [*a]", r"\*a is inside the value that it names"),
    "a mapping in itself": ("data: &a {b: {c: *a}}", r"\*a is inside the value that it names"),
    "2,000 lists": ("data: " + "[" * 2000 + "]" * 2000, "levels"),
    "2,000 mappings": ("".join(f"{' ' * n}a:\n" for n in range(400)), "levels"),
    "a long file": ("# " + "x" * MOST_CHARACTERS, f"at most {MOST_CHARACTERS}"),
    "no integer": ("seed: !!int x", "no int"),
    "no float": ("seed: !!float [1]", "expected a scalar node"),
    "no timestamp": ("seed: !!timestamp x", "no timestamp"),
    "no truth": ("seed: !!bool x", "no bool"),
    "no binary": ("seed: !!binary é", "base64|ascii"),
    "no pairs": ("seed: !!pairs 3", "expected a sequence"),
    "an object of Python": ("seed: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "5,000 digits": ("seed: " + "9" * 5000, "a number of 5000 characters"),
    "5,000 digits of a float": ("seed: " + "9" * 5000 + ".5", "a number of 5002 characters"),
    "an integer over 64 bits": ("seed: 9223372036854775808", "integers of 64 bits"),
    "a key that is a list": ("[1, 2]: 3", "unhashable key"),
    "two documents": ("seed: 1\n---\nseed: 2", "2 documents; allowed: one"),
}


@pytest.mark.parametrize("text, reason", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_yaml_is_a_fault_of_the_file(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(ConfigError, match=f"hostile.yaml.*not readable as YAML: .*({reason})"):
        load_study(file)
    assert time.process_time() - started < 5
    if reason != "2 documents; allowed: one":  # manifests of Kubernetes are several
        with pytest.raises(ConfigError, match=f"not readable as YAML: .*({reason})"):
            read_cluster_file(file)


@pytest.mark.parametrize("value", ["9" * 5000, "!!int x", "&a [*a]", "[" * 2000 + "]" * 2000])
def test_a_hostile_override_is_a_fault(value: str) -> None:
    with pytest.raises(ConfigError, match="the value is not YAML"):
        load_study("quickstart", [f"seed={value}"])


def test_what_is_within_the_bounds_is_read_as_before() -> None:
    text = "a: &x [1, 1e-2, 0x10, -9223372036854775808, .inf, 'y']\nb: *x\nc: {<<: {d: 1}, e: null}"
    (values,) = parsed_documents(text)
    assert setting_at(values, "b") == setting_at(values, "a") == [1, "1e-2", 16, -(2**63), float("inf"), "y"]
    assert setting_at(values, "c") == {"d": 1, "e": None}
    assert parsed_yaml("1e-2") == 0.01 and parsed_yaml("") is None and parsed_yaml("3") == 3
    assert parsed_yaml(yaml_text({"a": {"b": [1, "1e3", 2.5]}})) == {"a": {"b": [1, "1e3", 2.5]}}


@given(st.text(st.sampled_from("ab1:-[]{}&*!<,#'\"|>?% \n\t."), max_size=40))
def test_any_text_is_read_or_refused_as_yaml(text: str) -> None:
    try:
        parsed_documents(text)
    except yaml.YAMLError as error:
        assert str(error)
