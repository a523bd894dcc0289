"""The toy study: 40 generated images of 16 pixels, a small ConvNet, projection heads. It takes seconds on one core."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study

if TYPE_CHECKING:
    from rayvldd.experts.trajectory import Trajectory
    from rayvldd.models.retrieval_task import RetrievalTask

TOY_STUDY: dict[str, Any] = {
    "name": "toy",
    "seed": 7,
    "data": {"source": "toy_scenes", "image_size": 16, "num_train": 40, "num_val": 12, "num_test": 12},
    "model": {
        "protocol": "heads_only",
        "image_encoder": {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 16, "width": 8}},
        "text_encoder": {"pooling": "hashed_ngrams", "width": 32},
        "width": 16,
    },
    "experts": {"num_experts": 2, "epochs": 2, "batch_size": 32},
    "distillation": {"num_pairs": 4, "lr_image": 10.0, "lr_text": 10.0, "outer_steps": 4, "evaluate_every": 2},
    "evaluation": {
        "num_students": 1,
        "epochs": 2,
        "num_test_students": 2,
        "lr_coreset": [0.1],
        "full_data": {"epochs": [1], "learning_rates": [0.1], "batch_sizes": [32]},
    },
}
"""The settings without those of a method."""

PROTOCOLS: dict[str, dict[str, SettingValue]] = {
    "heads_only": {},
    "full_image_encoder": {"model.protocol": "full_image_encoder"},
    "lora": {"model.protocol": "lora", "model.lora.targets": ("blocks.0", "blocks.4"), "model.lora.rank": 2},
}
"""Overrides of the toy study for each protocol."""


def toy_study(
    method: str = "trajectory_matching", settings: Mapping[str, SettingValue] | None = None, **changes: SettingValue
) -> Study:
    """The toy study with a method.

    Args:
        method: Name of a registered method.
        settings: Settings of the method's section; default: those of its declaration's probe.
        changes: Values by dotted key.
    """
    from rayvldd.config.methods.registry import declaration_of

    section = dict(declaration_of(method).for_probe if settings is None else settings)
    distillation = {**TOY_STUDY["distillation"], "method": method, method: section}
    return Study.model_validate({**TOY_STUDY, "distillation": distillation}).at(changes)


def toy_task(study: Study, cache: Path) -> "tuple[RetrievalTask, list[Trajectory]]":
    """The task of a toy study, and two experts if its method requires experts."""
    from rayvldd.data.array_cache import ArrayCache
    from rayvldd.experts.recipe import expert_training
    from rayvldd.experts.training import train_expert
    from rayvldd.models.retrieval_task import load_task

    task = load_task(study.data, study.model, ArrayCache(cache), device="cpu")
    count = study.experts.num_experts if study.requires_experts else 0
    return task, [train_expert(task, expert_training(study), index)[0] for index in range(count)]
