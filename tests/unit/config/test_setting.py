"""The metadata of settings: how sections pass it on, and how it is found by key."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, JsonValue, ValidationError

from rayvldd.config.base import Settings
from rayvldd.config.setting import (
    MayChange,
    SettingInfo,
    flat_settings,
    info_of,
    selected,
    setting,
    setting_at,
    settings_below,
)
from rayvldd.config.study import Study, about, all_settings, changes_experts, sections_where


class Inner(Settings):
    size: int = setting(3, ge=1, le=9, unit="pixels")
    names: dict[str, int] = setting({}, changes_experts=False)


class Left(Settings):
    kind: Literal["left"]
    far: float = setting(1.0, source="a paper: 1")


class Right(Settings):
    kind: Literal["right"]
    near: float = setting(gt=0)


class Added(Settings):
    rate: float = setting(1.0, unit="steps")


class Outer(Settings):
    inner: Inner = setting(Inner(), changes_experts=True, may_change=MayChange.ALWAYS)
    side: Annotated[Left | Right, Field(discriminator="kind")] = setting(by_content=True)
    maybe: Inner | None = None
    plain: bool = True

    @classmethod
    def further_sections(cls) -> dict[str, type[Settings]]:
        return {"added": Added}


def test_a_section_passes_its_metadata_on_and_a_setting_states_its_own() -> None:
    known = settings_below(Outer)
    assert known["inner.size"] == SettingInfo(unit="pixels", changes_experts=True, may_change=MayChange.ALWAYS)
    assert known["inner.names"] == SettingInfo(may_change=MayChange.ALWAYS)
    assert known["side.far"] == SettingInfo(source="a paper: 1", by_content=True)
    assert known["side.near"] == known["side.kind"] == SettingInfo(by_content=True)
    assert known["maybe.size"] == SettingInfo(unit="pixels") and known["plain"] == SettingInfo()
    assert known["added.rate"] == SettingInfo(unit="steps")
    assert len(known) == 9


def test_a_key_inside_a_mapping_has_the_metadata_of_the_mapping() -> None:
    known = settings_below(Outer)
    assert info_of(known, "inner.names.one.two") is known["inner.names"]
    assert info_of(known, "inner") is None and info_of(known, "nothing.here") is None


def test_bounds_and_defaults_are_pydantics() -> None:
    assert Inner().size == 3 and Inner().names == {}
    for wrong in (0, 10):
        with pytest.raises(ValidationError, match="than or equal to"):
            Inner(size=wrong)
    with pytest.raises(ValidationError, match="Field required"):
        Outer.model_validate({"side": {"kind": "right"}})
    assert Outer.model_json_schema()["$defs"]["Inner"]["properties"]["size"]["setting"] == {"unit": "pixels"}


def test_a_mapping_is_no_default_that_two_studies_share() -> None:
    Inner().names["one"] = 1
    assert Inner().names == {}


def test_selected_keeps_the_nesting_and_leaves_empty_sections_out() -> None:
    outer = Outer.model_validate({"side": {"kind": "left"}, "inner": {"names": {"a": 1}}})
    assert selected(outer, lambda info: info.changes_experts) == {"inner": {"size": 3}}
    assert selected(outer, lambda info: not info.by_content) == {
        "inner": {"size": 3, "names": {"a": 1}},
        "maybe": None,
        "plain": True,
    }


def test_flat_settings_and_value_at() -> None:
    nested: JsonValue = {"a": {"b": [1, 2], "c": {}}, "d": None}
    flat = flat_settings(nested)
    assert flat == {"a.b": [1, 2], "a.c": {}, "d": None}
    assert all(setting_at(nested, key) == value for key, value in flat.items())
    assert setting_at(nested, "a.b.c") is None and setting_at(nested, "e") is None


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_how_long_a_setting_may_change(chosen: bool, finished: bool) -> None:
    allowed = {when for when in MayChange if when.allows(chosen=chosen, finished=finished)}
    expected = {MayChange.ALWAYS}
    expected |= {MayChange.UNTIL_FINISHED} if not finished else set()
    expected |= {MayChange.UNTIL_CHOSEN} if not chosen and not finished else set()
    assert allowed == expected


def test_settings_of_the_same_key_agree_whatever_the_source_of_the_data() -> None:
    """``settings_below`` has one entry for a key; all members of a union must mean the same by it."""
    members = list(Study.model_fields["data"].annotation.__args__)  # type: ignore[union-attr]
    assert len(members) >= 4
    for member in members:
        for key, info in settings_below(member).items():
            of_study = about(f"data.{key}")
            assert of_study is not None and info.by_content in (of_study.by_content, False)
            assert of_study.by_content == (key != "image_size")


def test_declarations_of_a_study() -> None:
    assert sections_where(lambda info: info.searchable) == ("model", "experts", "distillation")
    assert sections_where(lambda info: info.in_point) == ("data", "model", "experts", "distillation", "evaluation")
    assert changes_experts("model.lora.rank") and changes_experts("experts.lr_image")
    assert not changes_experts("distillation.momentum") and not changes_experts("experts.num_experts")
    assert not changes_experts("no.such.setting") and about("no.such.setting") is None
    free = {key for key, info in all_settings().items() if info.may_change is not MayChange.NEVER}
    assert {key for key in free if not key.startswith(("resources.", "search.choose."))} == {
        "data.unreadable",
        "search.num_trials",
        "search.max_concurrent",
        "search.time_budget_s",
        "search.stop_below_gain",
        "search.num_finalists",
        "search.finalist_seeds",
    }


def test_a_setting_that_is_free_to_change_decides_nothing_about_a_point() -> None:
    for key, info in all_settings().items():
        if info.may_change is not MayChange.NEVER:
            assert not (info.in_point or info.changes_experts or info.changes_recall), key
        assert not info.searchable or info.in_point, key
