"""Studies that several tests use."""

from typing import Any

from rayvldd.records.gain import RatesToTry
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

ONE_AT_A_TIME: dict[str, Any] = {"cpus_per_expert": 2, "cpus_per_trial": 2}
"""Resources of studies whose test needs nothing side by side: on a Ray of two CPUs each stage starts one process, where
most of the time is the import of torch in each."""

RATES_TO_TRY = RatesToTry(
    run="trial_000",
    start_recall=13.97,
    lowest_recall=2.57,
    lower={"distillation.lr_image": 3.0, "distillation.lr_text": 10.0},
    higher={"distillation.lr_image": 300.0, "distillation.lr_text": 1000.0},
)
"""Those of a search whose recalls fell below the start."""
