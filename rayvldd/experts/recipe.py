"""What decides a trajectory, and nothing else: the identity of an expert set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from rayvldd.config.setting import selected
from rayvldd.config.settings import TrajectoryStorage
from rayvldd.config.study import Study
from rayvldd.data.array_cache import fingerprint
from rayvldd.experts.training import ExpertTraining

_VERSION = 2
"""Raised when training changes what it computes from the same settings."""


@dataclass(frozen=True)
class ExpertRecipe:
    """All settings that decide the trajectories of a set, by value and by content of the files they name.

    How many experts there are, where files lie and how many threads train them are not part of it.
    """

    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """16 hex digits: sets with the same key are interchangeable, others never are."""
        return fingerprint(self.settings)

    @property
    def storage(self) -> TrajectoryStorage:
        """How the numbers of its trajectories are kept."""
        storage: TrajectoryStorage = self.settings.get("experts", {}).get("storage", "float32")
        return storage


def expert_training(study: Study) -> ExpertTraining:
    """What decides the training of a study's experts beside model and data."""
    return ExpertTraining(study.experts, study.seed)


def expert_recipe(study: Study, fingerprints: Mapping[str, str]) -> ExpertRecipe:
    """The recipe of the experts of a study at one point.

    Args:
        study: The study at the point.
        fingerprints: Of its data and encoders.
    """
    return ExpertRecipe({"version": _VERSION, **expert_settings(study), "fingerprints": dict(fingerprints)})


def expert_settings(point: Study) -> dict[str, JsonValue]:
    """The settings of a point that are part of the identity of its experts by value; fingerprints cover the others."""
    values = point.model_dump(mode="json")
    return selected(point, lambda info: info.changes_experts and not info.by_content and info.has_effect(values))
