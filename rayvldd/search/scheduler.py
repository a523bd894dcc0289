"""What stops poor trials early, with a memory that outlasts the driver.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934),
alone or in the brackets of Hyperband (arXiv 1603.06560), and the median stopping rule (Golovin et al., "Google Vizier",
KDD 2017), as Ray Tune implements them. Deviations: a trial's bracket follows from the study's seed and the trial's
number, where Ray draws it from the global stream; and a trial that is no better than its start when its grace is over
is stopped whatever the others do, since these rules let whoever comes first to a rung go on.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from rayvldd.config.study import Study
from rayvldd.randomness import bracket_seed
from rayvldd.search.ledger import METRIC, Ledger
from rayvldd.search.sampler import TRIAL_ID

OUTER_STEP = "outer_step"
"""The time by which trials are compared."""

_NO_CONTROLLER: Any = None
"""The rules are handed Tune's controller and do not look at it."""


@dataclass(frozen=True)
class _StandIn:
    """As much of a Tune trial as the rules look at, under the study's name for it."""

    trial_id: str


class _Rule(Protocol):
    """What a stopping rule of Ray is asked."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None: ...

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str: ...


class StudyScheduler(FIFOScheduler):
    """A stopping rule that knows trials by the study's names, not by Tune's, which change when a study continues.

    A trial that continues therefore meets its own earlier decisions, and trials of earlier sessions count.

    Args:
        rule: Compares trials with each other.
        gain_due: Outer step from which on a trial whose best recall is still that of its start is stopped.
    """

    def __init__(self, rule: _Rule, gain_due: float = math.inf) -> None:
        super().__init__()
        self._rule, self._gain_due = rule, gain_due
        self._starts: dict[str, float] = {}
        self._last_step: dict[str, float] = {}
        self._stopped: set[str] = set()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a trial."""
        self._rule.on_trial_add(tune_controller, _named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on; one that was told to stop and did not live to do so is told again.

        A trial that was cut off repeats its best evaluation when it continues: the rule has seen it.
        """
        return self._decide(tune_controller, _named(trial), result)

    def _decide(self, tune_controller: Any, trial: _StandIn, result: dict[str, Any]) -> str:
        name, step = trial.trial_id, float(result.get(OUTER_STEP, -1))  # a failed trial reports no step
        is_new = step > self._last_step.get(name, -1)
        if is_new and name not in self._stopped:
            self._last_step[name] = step
            if step == 0:
                self._starts[name] = result[METRIC]
            told = self._rule.on_trial_result(tune_controller, trial, result)
            if told == TrialScheduler.STOP or not self._has_gained(name, step, result[METRIC]):
                self._stopped.add(name)
        return TrialScheduler.STOP if name in self._stopped else TrialScheduler.CONTINUE

    def _has_gained(self, name: str, step: float, best: float) -> bool:
        return step < self._gain_due or best > self._starts.get(name, -math.inf)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forget a trial that ended by itself: Tune repeats its last result, which the rule has seen."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial that was taken away; its results stay what others are compared with."""

    def replay(self, ledger: Ledger) -> None:
        """Enter the results of earlier sessions, in the order in which they came."""
        rows = [(row["search_seconds"], trial, row) for trial in ledger.trials.values() for row in trial.evaluations]
        for trial in ledger.trials.values():
            self._rule.on_trial_add(_NO_CONTROLLER, _StandIn(trial.trial_id))
        for _, trial, row in sorted(rows, key=lambda entry: entry[0]):
            self._decide(_NO_CONTROLLER, _StandIn(trial.trial_id), row)


class _Halving(ASHAScheduler):
    """Successive halving in one bracket or several, whose draws repeat with the study's seed."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self._seed = seed

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Put a trial into a bracket: the more rungs one has, the likelier, as in Ray."""
        rungs = np.array([len(bracket._rungs) for bracket in self._brackets])
        weights = np.exp(rungs - rungs.max())
        number = int(trial.trial_id.rpartition("_")[2])
        generator = np.random.default_rng(bracket_seed(self._seed, number))
        self._trial_info[trial.trial_id] = self._brackets[generator.choice(len(rungs), p=weights / weights.sum())]


def make_scheduler(study: Study, ledger: Ledger) -> StudyScheduler:
    """The scheduler of a study, with what earlier sessions saw.

    Rungs lie at ``grace_evaluations`` evaluations, ``reduction_factor`` times as many, and so on; the evaluation of
    the start, at outer step 0, does not count. Trials are compared by outer step, because a study may search how
    often to evaluate.
    """
    every, last = study.largest("distillation.evaluate_every"), study.largest("distillation.outer_steps")
    grace = min(study.search.grace_evaluations * every, last)
    looks_for_gain = study.search.stop_without_gain and study.search.scheduler != "none" and grace < last
    scheduler = StudyScheduler(_rule(study, grace, last), grace if looks_for_gain else math.inf)
    scheduler.replay(ledger)
    return scheduler


def _rule(study: Study, grace: int, last: int) -> _Rule:
    search = study.search
    shared: dict[str, Any] = {"time_attr": OUTER_STEP, "metric": METRIC, "mode": "max", "grace_period": grace}
    if search.scheduler == "none":
        return FIFOScheduler()
    if search.scheduler == "median":
        # Without enough others to compare with, Ray would pause trials for those that wait; ours go on.
        never: Any = math.inf
        return MedianStoppingRule(**shared, min_samples_required=3, min_time_slice=never)
    rungs = 1 + int(math.log(last / grace) / math.log(search.reduction_factor))
    return _Halving(
        study.seed,
        **shared,
        max_t=last + 1,  # beyond the last step: a trial ends by itself, not by the scheduler's hand
        reduction_factor=search.reduction_factor,
        brackets=rungs if search.scheduler == "hyperband" else 1,
    )


def _named(trial: Any) -> _StandIn:
    return _StandIn(trial.config[TRIAL_ID])
