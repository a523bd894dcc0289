"""Searches without Ray: studies with a space, rows of the ledger, decisions of a scheduler."""

from typing import Any

from rayvldd.config.study import Study
from rayvldd.search.ledger import METRIC

SPACE = {
    "distillation.lr_image": {"type": "float", "low": 1.0, "high": 1000.0, "log": True},
    "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 1, "high": 4},
}


def with_search(study: Study, **search: Any) -> Study:
    values = study.model_dump(mode="json")
    values["search"] = {"space": SPACE, "num_trials": 4, "grace_evaluations": 1, "num_finalists": 0, **search}
    return Study.model_validate(values)


def row(step: int, value: float, seconds: float = 1.0) -> dict[str, float]:
    return {"outer_step": step, "val_mean_recall": value, METRIC: value, "search_seconds": seconds}
