"""What decides a trajectory, and nothing else: the identity of an expert set."""

from dataclasses import dataclass
from typing import Any

from rayvldd.config.settings import TrajectoryStorage
from rayvldd.data.array_cache import fingerprint
from rayvldd.models.retrieval_task import RetrievalTask

_VERSION = 1
"""Raised when training changes what it computes from the same settings."""

_SILENT_DEFAULTS = (("storage", "float32"), ("imported", None))


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


def expert_recipe(task: RetrievalTask) -> ExpertRecipe:
    """Return the recipe of the experts that a study point needs."""
    model = task.study.model.model_dump(mode="json", exclude={"text_encoder": True, "image_encoder": {"weights"}})
    if model["protocol"] != "lora":
        del model["lora"]
    experts = task.study.experts.model_dump(mode="json", exclude={"num_experts", "keep_epochs"})
    # Left out at their defaults, which changed nothing when they came: sets that were there before keep their key.
    experts = {name: value for name, value in experts.items() if (name, value) not in _SILENT_DEFAULTS}
    return ExpertRecipe(
        {
            "version": _VERSION,
            "model": model,
            "experts": experts,
            "image_size": task.study.data.image_size,
            "fingerprints": task.fingerprints,
            "seed": task.study.seed,
        }
    )
