"""The study in a set's card: read as it is, after overrides, and never filled from the environment."""

from types import SimpleNamespace
from typing import Any

import pytest
from helpers.sets import card_with

from rayvldd.config.study import Study
from rayvldd.errors import ConfigError
from rayvldd.library.set_groups import group_sets, study_of_card
from rayvldd.records.set_card import BareCard

SECRET = "do-not-show"


@pytest.fixture
def settings(tiny_study: Study, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings in the card of a set of the tiny study."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return tiny_study.model_dump(mode="json")


def test_the_study_of_a_card_is_read_with_overrides(settings: dict[str, Any], tiny_study: Study) -> None:
    assert study_of_card("set", card_with(study=settings)) == tiny_study
    assert study_of_card("set", card_with(study=settings), ["seed=5"]).seed == 5


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model.image_encoder", "name", "${AWS_SECRET_ACCESS_KEY}"),
        ("model.image_encoder", "options", {"url": ["https://elsewhere/${AWS_SECRET_ACCESS_KEY}"]}),
        ("evaluation", "epochs", "${AWS_SECRET_ACCESS_KEY}"),
    ],
)
def test_the_environment_is_never_filled_into_a_card(
    settings: dict[str, Any], section: str, key: str, value: object
) -> None:
    values = settings
    for name in section.split("."):
        values = values[name]
    values[key] = value
    with pytest.raises(ConfigError) as caught:
        study_of_card("set", card_with(study=settings))
    message = str(caught.value)
    assert f"set/card.json: {section}.{key}" in message and "${AWS_SECRET_ACCESS_KEY}" in message
    assert "no environment variable is filled in here" in message and "Next: rayvldd evaluate --help" in message
    assert SECRET not in message


def test_an_override_replaces_the_reference_and_is_filled_in(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCODER", "convnet_d2")
    settings["model"]["image_encoder"]["name"] = "${AWS_SECRET_ACCESS_KEY}"
    study = study_of_card("set", card_with(study=settings), ["model.image_encoder.name=${ENCODER}"])
    assert study.model.image_encoder.name == "convnet_d2"


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ({"extends": "/etc/hostname"}, "unknown key 'extends'"),
        ({"name": "tiny", "seeed": 1}, "set/card.json: seeed: unknown key 'seeed' (did you mean 'seed'?)"),
    ],
)
def test_a_card_without_a_study_of_this_release_is_refused(study: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of_card("set", card_with(study=study))
    assert expected in str(caught.value)


def test_a_card_without_an_origin_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set/card\.json: study: is missing; allowed: the settings that the set was"):
        study_of_card("set", BareCard())


def test_a_group_names_the_settings_that_the_card_has_otherwise(settings: dict[str, Any]) -> None:
    """Not those of encoders, which are columns of the table, nor where data lies."""
    made: Any = SimpleNamespace(card=card_with(study=settings), origin=card_with(study=settings))
    overrides = ["evaluation.epochs=9", "model.image_encoder.name=convnet_d2", "distillation.num_pairs=5"]
    (group,) = group_sets({"one": made}, {}, overrides)
    assert group.changed("one") == {"evaluation.epochs": 9}
    (same,) = group_sets({"one": made}, {})
    assert same.changed("one") == {}
