"""Our stopping rules decide as Ray Tune's schedulers do, over random histories."""

import math
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.searches import evaluated
from helpers.stopping import trial_of
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.stopping import StoppingRule, make_asha, make_hyperband, make_median
from rayvldd.randomness import bracket_seed
from rayvldd.records.trial import Trial

SHARED: dict[str, Any] = {"time_attr": "outer_step", "metric": "best_val_mean_recall", "mode": "max"}

events = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(1, 9)), min_size=1, max_size=80)
"""Of trial 0 to 6: its recall as a whole number, for ties, and how many outer steps it went on since the last time."""


class Rays:
    """A scheduler of Ray as a rule, for trials that have just been evaluated."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.trials: dict[str, Any] = {}

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        if trial.trial_id not in self.trials:
            self.trials[trial.trial_id] = _Hashable(trial_id=trial.trial_id)
            self.add(trial)
        last = trial.evaluations[-1]
        result = {"outer_step": last.outer_step, **last.numbers()}
        decision = self.scheduler.on_trial_result(None, self.trials[trial.trial_id], result)
        return "Ray's" if decision == "STOP" else None

    def add(self, trial: Trial) -> None:
        self.scheduler.on_trial_add(None, self.trials[trial.trial_id])


class _Hashable(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


class RaysBrackets(Rays):
    """Ray's Hyperband brackets, with the choice of each trial's bracket as ours draws it."""

    def __init__(self, scheduler: Any, seed: int) -> None:
        super().__init__(scheduler)
        self.seed = seed

    def add(self, trial: Trial) -> None:
        choose, np.random.choice = np.random.choice, np.random.default_rng(bracket_seed(self.seed, trial.number)).choice
        try:
            super().add(trial)
        finally:
            np.random.choice = choose


def stops(rule: StoppingRule, happened: list[tuple[int, int, int]], last: int) -> list[tuple[int, int]]:
    """Which trial stops at which outer step; it then gives no more evaluations."""
    trials: dict[int, Trial] = {}
    stopped: dict[int, int] = {}
    for number, recall, further in happened:
        trial = trials.setdefault(number, trial_of(number))
        step = 0 if trial.outer_step < 0 else trial.outer_step + further
        if number in stopped or step > last:
            continue
        best = max([recall / 2, *(each["best_val_mean_recall"] for each in trial.evaluations)])
        trial.evaluations.append(evaluated(step, best, val_mean_recall=recall / 2))
        if rule.reason_to_stop(trial, trials.values()) is not None:
            stopped[number] = step
    return list(stopped.items())


def study_with(base: Study, grace: int, factor: float, last: int) -> Study:
    values = base.at({"distillation.outer_steps": last, "distillation.evaluate_every": 1}).model_dump(mode="json")
    values["search"] = {"grace_evaluations": grace, "reduction_factor": factor}
    return Study.model_validate(values)


grid = {
    "happened": events,
    "grace": st.integers(1, 5),
    "factor": st.sampled_from([1.5, 2.0, 3.0, 4.0]),
    "last": st.integers(5, 60),
}


@pytest.fixture(scope="module")
def base() -> Study:
    from helpers.studies import TINY_STUDY

    return Study.model_validate(TINY_STUDY)


@settings(max_examples=200, deadline=None)
@given(**grid)
def test_successive_halving_is_rays(
    base: Study, happened: list[tuple[int, int, int]], grace: int, factor: float, last: int
) -> None:
    ours = make_asha(study_with(base, grace, factor, last))
    theirs = Rays(ASHAScheduler(max_t=last + 1, grace_period=grace, reduction_factor=factor, **SHARED))
    assert stops(ours, happened, last) == stops(theirs, happened, last)


@settings(max_examples=200, deadline=None)
@given(**grid)
def test_brackets_of_hyperband_are_rays(
    base: Study, happened: list[tuple[int, int, int]], grace: int, factor: float, last: int
) -> None:
    ours = make_hyperband(study_with(base, grace, factor, last))
    options = {**SHARED, "grace_period": grace, "reduction_factor": factor}
    brackets = 1 + int(math.log(last / grace) / math.log(factor))
    theirs = RaysBrackets(ASHAScheduler(max_t=last + 1, brackets=brackets, **options), base.seed)
    assert stops(ours, happened, last) == stops(theirs, happened, last)


@settings(max_examples=200, deadline=None)
@given(**grid)
def test_the_median_rule_is_rays(
    base: Study, happened: list[tuple[int, int, int]], grace: int, factor: float, last: int
) -> None:
    ours = make_median(study_with(base, grace, factor, last))
    never: Any = math.inf  # else it pauses trials for those that wait, which it gets from Tune's controller
    theirs = Rays(MedianStoppingRule(grace_period=grace, min_time_slice=never, **SHARED))
    assert stops(ours, happened, last) == stops(theirs, happened, last)


def test_random_histories_stop_trials(base: Study) -> None:
    """The comparison is of something: about a third of the trials of such histories stop."""
    generator = np.random.default_rng(0)
    happened = [(int(n), int(r), 1) for n, r in zip(*generator.integers(0, (7, 13), (80, 2)).T, strict=True)]
    study = study_with(base, 2, 2.0, 40)
    for make in (make_asha, make_hyperband, make_median):
        assert len(stops(make(study), happened, 40)) >= 2
