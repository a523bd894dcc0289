"""Searches without Ray: studies with a space, evaluations, decisions of a scheduler."""

from typing import Any

from rayvldd.config.study import Study
from rayvldd.records.trial import Evaluation

SPACE = {
    "distillation.lr_image": {"type": "float", "low": 1.0, "high": 1000.0, "log": True},
    "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 1, "high": 4},
}


def with_search(study: Study, **search: Any) -> Study:
    values = study.model_dump(mode="json")
    values["search"] = {"space": SPACE, "num_trials": 4, "grace_evaluations": 1, "num_finalists": 0, **search}
    return Study.model_validate(values)


def evaluated(step: int, recall: float, seconds: float = 1.0, **metrics: float) -> Evaluation:
    """An evaluation whose recall is the best so far, unless metrics override it."""
    return Evaluation(step, {"val_mean_recall": recall, "best_val_mean_recall": recall, **metrics}, seconds)
