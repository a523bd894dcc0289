"""What stops poor trials early: asynchronous successive halving, with a memory that outlasts the driver.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (arXiv 1810.05934), as Ray Tune implements it.
"""

import math
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from rayvldd.config.study import Study
from rayvldd.search.ledger import METRIC, Ledger
from rayvldd.search.sampler import TRIAL_ID

OUTER_STEP = "outer_step"
"""The time by which trials are compared."""

_NO_CONTROLLER: Any = None
"""ASHA is handed Tune's controller and does not look at it."""


class StudyScheduler(ASHAScheduler):
    """ASHA whose rungs know trials by the study's names, not by Tune's, which change when a study continues.

    A trial that continues therefore meets its own earlier decisions, and trials of earlier sessions count.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a trial."""
        super().on_trial_add(tune_controller, _named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on."""
        decision: str = super().on_trial_result(tune_controller, _named(trial), result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take the last result of a trial that ended by itself."""
        super().on_trial_complete(tune_controller, _named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial that was taken away; its results stay in the rungs."""
        super().on_trial_remove(tune_controller, _named(trial))

    def replay(self, ledger: Ledger) -> None:
        """Enter the results of earlier sessions, in the order in which they came."""
        rows = [(row["search_seconds"], trial, row) for trial in ledger.trials.values() for row in trial.evaluations]
        for trial in ledger.trials.values():
            super().on_trial_add(_NO_CONTROLLER, _stand_in(trial.trial_id))
        for _, trial, row in sorted(rows, key=lambda entry: entry[0]):
            super().on_trial_result(_NO_CONTROLLER, _stand_in(trial.trial_id), row)


def make_scheduler(study: Study, ledger: Ledger) -> StudyScheduler:
    """The scheduler of a study, with what earlier sessions saw.

    Rungs lie at ``grace_evaluations`` evaluations, ``reduction_factor`` times as many, and so on; the evaluation of
    the start, at outer step 0, does not count. Trials are compared by outer step, because a study may search how
    often to evaluate.
    """
    every, last = _largest(study, "evaluate_every"), _largest(study, "outer_steps")
    scheduler = StudyScheduler(
        time_attr=OUTER_STEP,
        metric=METRIC,
        mode="max",
        max_t=last + 1,  # beyond the last step: a trial ends by itself, not by the scheduler's hand
        grace_period=min(study.search.grace_evaluations * every, last),
        reduction_factor=study.search.reduction_factor,
    )
    scheduler.replay(ledger)
    return scheduler


def _largest(study: Study, name: str) -> int:
    domain = study.search.space.get(f"distillation.{name}")
    values = domain.corners() if domain else [getattr(study.distillation, name)]
    return math.ceil(max(float(value) for value in values))


def _named(trial: Any) -> Any:
    """As much of a Tune trial as ASHA looks at, under the study's name for it."""
    return _stand_in(trial.config[TRIAL_ID])


def _stand_in(trial_id: str) -> Any:
    return SimpleNamespace(trial_id=trial_id)
