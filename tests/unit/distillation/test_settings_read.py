"""Every setting that a distillation method accepts is read by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from helpers.tasks import load, random_trajectory
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from rayvldd.config.base import Settings
from rayvldd.config.distillation import DistillationSettings, EngineSettings
from rayvldd.config.domains import SettingValue
from rayvldd.config.methods.registry import declaration_of, method_names
from rayvldd.config.study import Study
from rayvldd.distillation.loop import OuterLoop
from rayvldd.testing.toy import PROTOCOLS, toy_study

Point = dict[str, SettingValue]

VARIANTS: dict[str, list[Point]] = {
    "trajectory_matching": [
        {
            "gradient": "truncated",
            "separate_start_epochs": True,
            "max_start_epoch": 2,
            "max_start_epoch_image": 1,
        }
    ],
    "meta_model": [{"starts": "both", "lengthen_over": 2}],
    "covariance": [{"variant": "plain"}, {"variant": "ridge"}],
    "expert_fit": [{}, {"teacher": "merged", "experts.shared_start": True, "experts.num_experts": 2}],
}
"""Settings for runs that read the other settings, of the method's section unless the key is dotted; without an entry:
one run, of the probe."""

SHARED = ("augmentation",)
"""The shared setting that each method has to read itself; the outer loop and the evaluation read the others."""


@contextmanager
def reads_of_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[tuple[type[Settings], str]]]:
    """Record which attributes of settings are read, as (class, name)."""
    found: set[tuple[type[Settings], str]] = set()

    def recording(self: Settings, name: str) -> object:
        found.add((type(self), name))
        return object.__getattribute__(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Settings, "__getattribute__", recording, raising=False)
        yield found


def settings_of(method: str) -> list[tuple[str, type[Settings], str]]:
    """The settings that the method has to read: dotted key, class and name."""
    own = declaration_of(method).settings
    return [
        *((f"distillation.{method}.{name}", own, name) for name in own.model_fields),
        *((f"distillation.engine.{name}", EngineSettings, name) for name in EngineSettings.model_fields),
        *((f"distillation.{name}", DistillationSettings, name) for name in SHARED),
    ]


def accepts_another_value(study: Study, key: str, field: FieldInfo) -> bool:
    """Whether the study can have a value that is not the default of this setting."""
    candidates = [*get_args(field.annotation), True, 1, 2, 3, 0.25, 0.5, 8.0]
    for value in candidates:
        if not isinstance(value, bool | int | float | str) or value == field.default:
            continue
        try:
            study.at({key: value})
        except ValidationError:
            continue
        return True
    return False


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", method_names())
def test_every_accepted_setting_is_read(
    method: str, protocol: str, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "covariance" and protocol != "heads_only":
        return  # refused by its declaration
    base = toy_study(method, None, **PROTOCOLS[protocol])
    found: set[tuple[type[Settings], str]] = set()
    for variant in VARIANTS.get(method, [{}]):
        study = base.at(
            {name if "." in name else f"distillation.{method}.{name}": value for name, value in variant.items()}
        )
        task = load(study, tiny_cache)
        experts = [random_trajectory(task.model)] * study.experts.num_experts if study.requires_experts else []
        with reads_of_settings(monkeypatch) as read:
            OuterLoop(study, task, experts, 0).step()
        assert read, "the recorder sees reads"
        found |= read
    unread = [
        key
        for key, kind, name in settings_of(method)
        if (kind, name) not in found and accepts_another_value(base, key, kind.model_fields[name])
    ]
    assert unread == [], "accepted, and without effect: read them, or refuse them in the method's declaration"
