"""Rules that stop poor trials early, written on the records of all trials.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934),
alone or in the brackets of Hyperband (arXiv 1603.06560), and the median stopping rule (Golovin et al., "Google Vizier",
KDD 2017). They decide as Ray Tune's implementations do, with two differences: a trial's bracket follows from the
study's seed and the trial's number, where Ray draws it from the global stream; and a trial that is no better than its
start when its grace is over is stopped whatever the others do, since these rules let the first trial at a rung go on.

Trials are compared by outer step, because a study may search how often to evaluate.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.randomness import bracket_seed
from rayvldd.records.trial import Evaluation, Trial

_FEWEST_OTHERS = 3
"""Trials to compare with, below which the median rule lets a trial go on."""


class StoppingRule(Protocol):
    """Decides whether a trial stops early."""

    def should_stop(self, trial: Trial, history: Collection[Trial]) -> bool:
        """Whether a trial stops now; called once for each of its evaluations, while that is its last one.

        Args:
            trial: The trial that was just evaluated.
            history: All trials of the study with their evaluations so far, this one among them.
        """
        ...


class Never:
    """Lets every trial go on."""

    def should_stop(self, trial: Trial, history: Collection[Trial]) -> bool:
        """No."""
        return False


@dataclass
class _RungEntries:
    """The recalls with which a trial entered the rungs of its bracket, as far as its evaluations were read."""

    rungs: tuple[float, ...]
    """Outer steps, the largest first."""
    recalls: dict[float, float]
    read: int = 0

    def catch_up(self, evaluations: list[Evaluation]) -> float | None:
        """Read new evaluations, and return the rung that the last of all enters.

        An evaluation enters the highest rung that it has reached and no earlier one has entered: usually that is one
        rung, but with seldom evaluations a lower one may be entered after a higher one.
        """
        entered = None
        for evaluation in evaluations[self.read :]:
            step = evaluation.outer_step
            reached = (rung for rung in self.rungs if step >= rung and rung not in self.recalls)
            entered = next(reached, None)
            if entered is not None:
                self.recalls[entered] = evaluation[BEST_VAL_MEAN_RECALL]
        self.read = len(evaluations)
        return entered


class SuccessiveHalving:
    """Stops a trial that enters a rung below the best share of those that entered it before.

    Args:
        brackets: The rungs of each bracket, as outer steps, the largest first.
        factor: One in so many trials goes on at each rung.
        seed: The study's seed, for the choice of brackets.
    """

    def __init__(self, brackets: list[tuple[float, ...]], factor: float, seed: int) -> None:
        self._brackets, self._factor, self._seed = brackets, factor, seed
        sizes = np.array([len(rungs) for rungs in brackets])
        weights = np.exp(sizes - sizes.max())
        self._weights = weights / weights.sum()
        self._bracket_of: dict[str, int] = {}
        self._entries: dict[str, _RungEntries] = {}

    def should_stop(self, trial: Trial, history: Collection[Trial]) -> bool:
        """Compare at the rung that the trial's last evaluation enters, if it enters one."""
        own = self._entries_of(trial)
        rung = own.catch_up(trial.evaluations)
        if rung is None:
            return False
        bracket, others = self._bracket_of[trial.trial_id], []
        for other in history:
            entries = self._entries_of(other)
            if other.trial_id != trial.trial_id and self._bracket_of[other.trial_id] == bracket:
                entries.catch_up(other.evaluations)
                others.append(entries.recalls.get(rung))
        recalls = [recall for recall in others if recall is not None]
        if not recalls:
            return False
        return bool(own.recalls[rung] < np.nanpercentile(recalls, (1 - 1 / self._factor) * 100))

    def _entries_of(self, trial: Trial) -> _RungEntries:
        name = trial.trial_id
        if name not in self._entries:
            generator = np.random.default_rng(bracket_seed(self._seed, trial.number))
            self._bracket_of[name] = int(generator.choice(len(self._brackets), p=self._weights))
            self._entries[name] = _RungEntries(self._brackets[self._bracket_of[name]], {})
        return self._entries[name]


class MedianRule:
    """Stops a trial whose best recall is below the median of the others' mean recalls up to the same outer step.

    Args:
        grace: Outer step before which no trial is stopped and from which on means are taken.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace

    def should_stop(self, trial: Trial, history: Collection[Trial]) -> bool:
        """Compare with those trials that have come as far."""
        step = trial.outer_step
        if step < self._grace:
            return False
        others = [other for other in history if other.trial_id != trial.trial_id and other.outer_step >= step]
        means = [mean for other in others if (mean := self._mean(other, step)) is not None]
        best = max(evaluation[BEST_VAL_MEAN_RECALL] for evaluation in trial.evaluations)
        return len(means) >= _FEWEST_OTHERS and bool(np.median(means) > best)

    def _mean(self, trial: Trial, step: int) -> float | None:
        counted = [evaluation for evaluation in trial.evaluations if self._grace <= evaluation.outer_step <= step]
        recalls = [evaluation[BEST_VAL_MEAN_RECALL] for evaluation in counted]
        return float(np.mean(recalls)) if recalls else None


@dataclass(frozen=True)
class GainRequired:
    """Stops a trial whose best recall is still that of its start, besides those that another rule stops."""

    rule: StoppingRule
    due: float
    """Outer step from which on a trial needs a gain."""

    def should_stop(self, trial: Trial, history: Collection[Trial]) -> bool:
        """Ask both, the other rule at every evaluation."""
        stops, first, last = self.rule.should_stop(trial, history), trial.evaluations[0], trial.evaluations[-1]
        start = first[BEST_VAL_MEAN_RECALL] if first.outer_step == 0 else -math.inf
        return stops or (last.outer_step >= self.due and last[BEST_VAL_MEAN_RECALL] <= start)


def with_gain_required(rule: StoppingRule, study: Study) -> StoppingRule:
    """The rule, with a gain required when the grace is over; a trial that ends by then needs none."""
    grace, last = _grace_and_last(study)
    return GainRequired(rule, grace) if grace < last else rule


def make_none(study: Study) -> StoppingRule:
    """No early stopping."""
    return Never()


def make_asha(study: Study) -> StoppingRule:
    """Asynchronous successive halving with the study's grace and factor."""
    return SuccessiveHalving(_brackets(study, 1), study.search.reduction_factor, study.seed)


def make_hyperband(study: Study) -> StoppingRule:
    """Successive halving in as many brackets as there are rungs, each of which begins one rung later."""
    grace, last = _grace_and_last(study)
    count = 1 + int(math.log(last / grace) / math.log(study.search.reduction_factor))
    return SuccessiveHalving(_brackets(study, count), study.search.reduction_factor, study.seed)


def make_median(study: Study) -> StoppingRule:
    """The median rule with the study's grace."""
    return MedianRule(_grace_and_last(study)[0])


def _grace_and_last(study: Study) -> tuple[int, int]:
    """The outer step before which no trial is stopped, and the last one of the longest trial.

    The evaluation of the start, at outer step 0, does not count as one of grace.
    """
    every, last = study.largest("distillation.evaluate_every"), study.largest("distillation.outer_steps")
    return min(study.search.grace_evaluations * every, last), last


def _brackets(study: Study, count: int) -> list[tuple[float, ...]]:
    """Rungs at ``grace_evaluations`` evaluations, ``reduction_factor`` times as many, and so on.

    One step beyond the last belongs to them: a trial ends by itself, not by a rule.
    """
    (grace, last), factor = _grace_and_last(study), study.search.reduction_factor
    most = np.log((last + 1) / grace) / np.log(factor)
    return [
        tuple(grace * factor ** (k + start) for k in reversed(range(int(most - start + 1)))) for start in range(count)
    ]
