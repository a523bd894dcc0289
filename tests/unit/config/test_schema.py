"""The schema of study files accepts the same files as the loader, and names unknown keys."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rayvldd.config.loading import load_study
from rayvldd.config.methods.registry import method_names
from rayvldd.config.schema import study_schema
from rayvldd.config.shipped_spaces import purpose_of, shipped_spaces
from rayvldd.config.study_files import parsed_yaml
from rayvldd.errors import ConfigError

SPACES = shipped_spaces()


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = study_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", SPACES)
def test_shipped_studies_are_valid_and_have_a_purpose(name: str, validator: Draft202012Validator) -> None:
    values = parsed_yaml(SPACES[name].read_text(encoding="utf-8"))
    assert [error.message for error in validator.iter_errors(values)] == []
    assert len(purpose_of(SPACES[name])) > 20
    assert purpose_of(SPACES[name]).endswith("."), "spaces shows a whole sentence"


def test_a_purpose_is_the_first_sentence_of_the_header(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text, purpose in {
        "# ViT-B/16 at 1.5 px of\n# mine.yaml. A second one.\n# More.\nname: x\n": "ViT-B/16 at 1.5 px of mine.yaml.",
        "# Without a full stop\n#\n# Command: none.\n": "Without a full stop",
        "# A header\nname: x  # and no more.\n": "A header",
        "name: x\n": "",
        "": "",
    }.items():
        file.write_text(text, encoding="utf-8")
        assert purpose_of(file) == purpose


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distillation": {"syn_steps": 3}}, "'syn_steps' was unexpected"),
        ({"distillation": {"trajectory_matching": {"syn_steps": 0}}}, "0 is less than the minimum of 1"),
        ({"experts": {"epochs": "many"}}, "'many' is not of type 'integer'"),
        ({"serach": {}}, "'serach' was unexpected"),
    ],
)
def test_a_wrong_key_or_value_is_found(wrong: dict[str, Any], message: str, validator: Draft202012Validator) -> None:
    assert any(message in error.message for error in validator.iter_errors({"name": "x", **wrong}))


def test_a_domain_may_be_null_in_a_file_that_extends_another(validator: Draft202012Validator) -> None:
    values = {"name": "x", "extends": "y.yaml", "search": {"space": {"distillation.lr_image": None}}}
    assert not list(validator.iter_errors(values))


def test_every_method_has_its_section_with_descriptions() -> None:
    schema: Any = study_schema()
    properties = schema["$defs"]["DistillationSettings"]["properties"]
    assert set(method_names()) <= set(properties)
    steps = schema["$defs"]["TrajectoryMatchingSettings"]["properties"]["syn_steps"]
    assert steps["minimum"] == 1 and steps["description"]


def test_a_shipped_study_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_study("quickstart") == load_study(SPACES["quickstart"])
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_study("quickstrat")
    (tmp_path / "quickstart").write_text("name: mine\n")  # a file of the user's comes first
    with pytest.raises(ConfigError, match="quickstart: data: is missing"):
        load_study("quickstart")
