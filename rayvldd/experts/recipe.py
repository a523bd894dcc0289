"""Identity of an expert set: all settings and file contents that determine its trajectories.

This module does not import torch: sets are identified in a list or a plan, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from rayvldd.config.setting import selected
from rayvldd.config.settings import ExpertSettings, TrajectoryStorage
from rayvldd.config.study import Study
from rayvldd.data.array_cache import fingerprint
from rayvldd.records.json_values import JsonValue, text_at

_VERSION = 2
"""Incremented when training computes different results from the same settings."""


@dataclass(frozen=True)
class ExpertRecipe:
    """All settings that determine the trajectories of a set, by value or by the content of the files they name.

    The number of experts, file locations and the number of threads are not part of it.
    """

    settings: dict[str, JsonValue]

    @property
    def key(self) -> str:
        """16 hex digits; sets are interchangeable exactly when their keys are equal."""
        return fingerprint(self.settings)

    @property
    def storage(self) -> TrajectoryStorage:
        """Number format of the stored trajectories."""
        return cast(TrajectoryStorage, text_at(self.settings, "experts", "storage") or "float32")


@dataclass(frozen=True)
class ExpertTraining:
    """Training settings of experts, apart from model and data."""

    settings: ExpertSettings
    seed: int
    """Seed of the study."""
    in_one_pass: int = 1
    """Most experts that a device other than a CPU trains in one pass."""


def expert_training(study: Study) -> ExpertTraining:
    """Return the training settings of a study's experts, apart from model and data."""
    at_once = study.resources.experts_in_one_pass or (4 if study.model.protocol == "heads_only" else 1)
    return ExpertTraining(study.experts, study.seed, at_once if study.model.can_be_stacked else 1)


def expert_recipe(study: Study, fingerprints: Mapping[str, str]) -> ExpertRecipe:
    """Return the recipe of the experts of a study at one point.

    Args:
        study: The study at the point.
        fingerprints: Fingerprints of its data and encoders.
    """
    return ExpertRecipe({"version": _VERSION, **expert_settings(study), "fingerprints": {**fingerprints}})


def expert_settings(point: Study) -> dict[str, JsonValue]:
    """Return the settings of a point that identify its experts by value; fingerprints cover the others."""
    values = point.model_dump(mode="json")
    return selected(point, lambda info: info.changes_experts and not info.by_content and info.has_effect(values))
