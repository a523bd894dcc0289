"""What decides a trajectory, and nothing else: the identity of an expert set."""

from dataclasses import dataclass
from typing import Any

from rayvldd.data.array_cache import fingerprint
from rayvldd.models.problem import Problem

_VERSION = 1
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


def expert_recipe(problem: Problem) -> ExpertRecipe:
    """Return the recipe of the experts that a study point needs."""
    model = problem.study.model.model_dump(mode="json", exclude={"text_encoder": True, "image_encoder": {"weights"}})
    if model["protocol"] != "lora":
        del model["lora"]
    return ExpertRecipe(
        {
            "version": _VERSION,
            "model": model,
            "experts": problem.study.experts.model_dump(mode="json", exclude={"num_experts"}),
            "image_size": problem.study.data.image_size,
            "fingerprints": problem.fingerprints,
            "seed": problem.study.seed,
        }
    )
