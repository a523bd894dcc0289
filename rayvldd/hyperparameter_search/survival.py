"""How many trials a stopping rule is expected to leave running, for the time that a search has left."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from rayvldd.config.search_plugins import RULES
from rayvldd.config.study import Study
from rayvldd.records.trial import Trial

_PRIOR_TRIALS = 2.0
"""Trials that the expectation from a rule is worth beside those that the study has compared."""


@dataclass(frozen=True)
class Rungs:
    """The outer steps at which a rule compares trials, and the percentile of the others below which it stops one."""

    brackets: tuple[tuple[float, ...], ...]
    """Outer steps, the smallest first; for each bracket its own."""
    weights: tuple[float, ...]
    """Share of the trials in each bracket."""
    percentile: float
    """Fraction of the other recalls, 0 to 1, at which the limit is."""
    fewest_others: int = 1
    """Other trials at a rung without which none is stopped there."""


@runtime_checkable
class ComparingRule(Protocol):
    """A stopping rule that says where it compares trials; of others only the trials of the study tell."""

    def rungs(self) -> Rungs:
        """Return the outer steps at which it compares trials."""
        ...


def rungs_of(study: Study) -> Rungs:
    """The rungs of a study's rule; if it does not say them every evaluation, where it is expected to stop no trial."""
    rule = cast(Callable[[Study], object], RULES[study.search.scheduler].factory())(study)
    if isinstance(rule, ComparingRule):
        return rule.rungs()
    every, last = study.largest("distillation.evaluate_every"), study.largest("distillation.outer_steps")
    return Rungs((tuple(range(every, last + 1, every)),), (1.0,), 0.0, study.max_trials)


class Survival:
    """Expected outer steps of trials.

    Before a study has trials to count, recalls are taken as exchangeable: the chance of a trial is its rank among those
    that have reached a rung. The counted ones replace that expectation as there are more of them.

    Args:
        rungs: Where trials are compared.
        trials: The trials of the study so far.
    """

    def __init__(self, rungs: Rungs, trials: Collection[Trial]) -> None:
        self._rungs = rungs
        steps = sorted({step for bracket in rungs.brackets for step in bracket})
        nexts = [*steps[1:], math.inf][: len(steps)]  # without rungs, no limits between them
        self._counts = {step: _counts(trials, step, after) for step, after in zip(steps, nexts, strict=True)}

    def steps(self, done: int, last: int, place: int) -> float:
        """Expected further outer steps of a trial.

        Args:
            done: Its outer steps so far; 0, or those at its last evaluation, after which it may be stopped.
            last: Outer step at which it ends, if it is not stopped.
            place: Its place among the trials of the search, from 1 on.
        """
        brackets = zip(self._rungs.brackets, self._rungs.weights, strict=True)
        return sum(weight * self._steps(bracket, done, last, place * weight) for bracket, weight in brackets)

    def _steps(self, bracket: tuple[float, ...], done: int, last: int, place: float) -> float:
        share, reached, steps = 1.0, float(done), 0.0
        for rung in bracket:
            if rung >= last:
                break
            continues = self._continues(rung, place)
            if rung >= done:
                steps += share * (rung - reached)
                share, reached = share * continues, rung
            place *= continues  # so many of the trials up to this one reach the next rung
        return steps + share * (last - reached)

    def _continues(self, rung: float, place: float) -> float:
        compared, continued = self._counts[rung]
        return (_PRIOR_TRIALS * self._expected(place) + continued) / (_PRIOR_TRIALS + compared)

    def _expected(self, place: float) -> float:
        """Chance that a recall is above the limit, if it is drawn like those of the others at the rung.

        The limit is at rank ``(others - 1) * percentile`` of the others. Each of the ``others + 1`` ranks of the trial
        is equally likely. Places between whole numbers are expected ones.
        """
        others = place - 1
        if others < self._rungs.fewest_others:
            return 1.0 if self._rungs.fewest_others > 1 else 1 - max(others, 0.0) / 2
        return (others - (others - 1) * self._rungs.percentile) / place


def _counts(trials: Collection[Trial], rung: float, after: float) -> tuple[int, int]:
    """The trials that were compared at a rung, and those of them that continued."""
    compared = [t for t in trials if t.outer_step > rung or (t.outer_step == rung and t.state != "running")]
    ended = sum(trial.state in ("stopped", "failed") and trial.outer_step < after for trial in compared)
    return len(compared), len(compared) - ended
