"""Studies that several tests use."""

from typing import Any

from rayvldd.testing.toy import TOY_STUDY

TINY_STUDY: dict[str, Any] = {
    **TOY_STUDY,
    "name": "tiny",
    "distillation": {
        **TOY_STUDY["distillation"],
        "trajectory_matching": {"syn_steps": 2, "expert_epochs": 1, "max_start_epoch": 1},
    },
}
"""The smallest study that runs every part, in seconds on one core."""

ONE_RATE_OF_TWO: dict[str, Any] = {
    "space": {"distillation.lr_image": {"type": "choice", "values": [10.0, 20.0]}},
    "initial_points": [{"distillation.lr_image": 10.0}],
    "num_trials": 1,
    "num_finalists": 0,
}
"""The smallest search: one trial, at the tiny study's own settings."""
