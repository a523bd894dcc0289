"""Rules that stop poor trials early, based on the records of all trials.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934),
alone or in the brackets of Hyperband (arXiv 1603.06560), and the median stopping rule (Golovin et al., "Google Vizier",
KDD 2017). Decisions are those of Ray Tune's implementations, with two differences. A trial's bracket is determined by
the study's seed and the trial's number; Ray samples it from the global random state. A trial that has not improved on
its initial set after the grace period is stopped independently of the others, since these rules continue the first
trial at a rung.

Trials are compared by outer step, because the evaluation interval can be searched.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.survival import Rungs
from rayvldd.randomness import bracket_seed
from rayvldd.records.stop_reasons import BELOW_MEDIAN, HALVED, NO_GAIN
from rayvldd.records.trial import Evaluation, Trial

_FEWEST_OTHERS = 3
"""Minimum number of other trials for the median rule; with fewer a trial continues."""


class StoppingRule(Protocol):
    """Decides whether a trial stops early."""

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        """Why to stop a trial now, for the user; None: it continues. Called once after each of its evaluations.

        Args:
            trial: The trial that was just evaluated.
            history: All trials of the study with their evaluations so far, including this one.
        """
        ...


class Never:
    """Stops no trial."""

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        """Return None."""
        return None


@dataclass
class _RungEntries:
    """Recalls of a trial at the rungs of its bracket, updated incrementally from its evaluations."""

    rungs: tuple[float, ...]
    """Outer steps, the largest first."""
    recalls: dict[float, float]
    read: int = 0

    def catch_up(self, evaluations: list[Evaluation]) -> float | None:
        """Read new evaluations, and return the rung that the last evaluation enters, if any.

        An evaluation enters the highest rung that it has reached and that no earlier evaluation has entered. If
        evaluations are infrequent, a lower rung may be entered after a higher one.
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
    """Stops a trial whose recall at a rung is below the best ``1 / factor`` of the earlier entries.

    Args:
        brackets: The rungs of each bracket, as outer steps, the largest first.
        factor: One in ``factor`` trials continues at each rung.
        seed: The study's seed, for the choice of brackets.
    """

    def __init__(self, brackets: list[tuple[float, ...]], factor: float, seed: int) -> None:
        self._brackets, self._factor, self._seed = brackets, factor, seed
        sizes = np.array([len(rungs) for rungs in brackets])
        weights = np.exp(sizes - sizes.max())
        self._weights = weights / weights.sum()
        self._bracket_of: dict[str, int] = {}
        self._entries: dict[str, _RungEntries] = {}

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        """Compare at the rung that the trial's last evaluation enters, if it enters one."""
        own = self._entries_of(trial)
        rung = own.catch_up(trial.evaluations)
        if rung is None:
            return None
        bracket, others = self._bracket_of[trial.trial_id], []
        for other in history:
            entries = self._entries_of(other)
            if other.trial_id != trial.trial_id and self._bracket_of[other.trial_id] == bracket:
                entries.catch_up(other.evaluations)
                others.append(entries.recalls.get(rung))
        recalls = [recall for recall in others if recall is not None]
        if not recalls:
            return None
        limit = np.nanpercentile(recalls, (1 - 1 / self._factor) * 100)
        if not own.recalls[rung] < limit:
            return None
        return f"{HALVED} at step {trial.outer_step}: {own.recalls[rung]:.2f} is below {limit:.2f}"

    def rungs(self) -> Rungs:
        """The rungs of all brackets."""
        brackets = tuple(tuple(reversed(bracket)) for bracket in self._brackets)
        return Rungs(brackets, tuple(map(float, self._weights)), 1 - 1 / self._factor)

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
        grace: Outer step before which no trial is stopped, and from which means are computed.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        """Compare with the trials that have reached the same outer step."""
        step = trial.outer_step
        if step < self._grace:
            return None
        others = [other for other in history if other.trial_id != trial.trial_id and other.outer_step >= step]
        means = [mean for other in others if (mean := self._mean(other, step)) is not None]
        best = max(evaluation[BEST_VAL_MEAN_RECALL] for evaluation in trial.evaluations)
        if len(means) < _FEWEST_OTHERS or not np.median(means) > best:
            return None
        return f"{BELOW_MEDIAN} at step {step}: {best:.2f} is below {np.median(means):.2f}"

    def rungs(self) -> Rungs:
        """The end of the grace period: later comparisons are mostly with the same trials."""
        return Rungs(((self._grace,),), (1.0,), 0.5, _FEWEST_OTHERS)

    def _mean(self, trial: Trial, step: int) -> float | None:
        counted = [evaluation for evaluation in trial.evaluations if self._grace <= evaluation.outer_step <= step]
        recalls = [evaluation[BEST_VAL_MEAN_RECALL] for evaluation in counted]
        return float(np.mean(recalls)) if recalls else None


@dataclass(frozen=True)
class GainRequired:
    """Stops a trial whose best recall is still that of its initial set, in addition to another rule."""

    rule: StoppingRule
    due: float
    """Outer step from which a trial needs a gain."""

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        """Apply both rules; the other rule is called at every evaluation."""
        reason, first, last = self.rule.reason_to_stop(trial, history), trial.evaluations[0], trial.evaluations[-1]
        start = first[BEST_VAL_MEAN_RECALL] if first.outer_step == 0 else -math.inf
        if last.outer_step >= self.due and last[BEST_VAL_MEAN_RECALL] <= start:
            return f"{NO_GAIN} over its initial set until step {last.outer_step}"
        return reason


def with_gain_required(rule: StoppingRule, study: Study) -> StoppingRule:
    """Add the requirement of a gain after the grace period; a trial that ends before needs none."""
    grace, last = _grace_and_last(study)
    return GainRequired(rule, grace) if grace < last else rule


def make_none(study: Study) -> StoppingRule:
    """No early stopping."""
    return Never()


def make_asha(study: Study) -> StoppingRule:
    """Asynchronous successive halving with the study's grace period and reduction factor."""
    return SuccessiveHalving(_brackets(study, 1), study.search.reduction_factor, study.seed)


def make_hyperband(study: Study) -> StoppingRule:
    """Successive halving with one bracket for each rung; each bracket begins one rung later than the previous one."""
    grace, last = _grace_and_last(study)
    count = 1 + int(math.log(last / grace) / math.log(study.search.reduction_factor))
    return SuccessiveHalving(_brackets(study, count), study.search.reduction_factor, study.seed)


def make_median(study: Study) -> StoppingRule:
    """The median rule with the study's grace period."""
    return MedianRule(_grace_and_last(study)[0])


def _grace_and_last(study: Study) -> tuple[int, int]:
    """The outer step at the end of the grace period, and the last outer step of the longest trial.

    The evaluation of the initial set, at outer step 0, does not count towards the grace period.
    """
    every, last = study.largest("distillation.evaluate_every"), study.largest("distillation.outer_steps")
    return min(study.search.grace_evaluations * every, last), last


def _brackets(study: Study, count: int) -> list[tuple[float, ...]]:
    """Rungs at ``grace_evaluations`` evaluations, ``reduction_factor`` times as many, and so on.

    Rungs extend to one step beyond the last one, so that no rule stops a trial at its regular end.
    """
    (grace, last), factor = _grace_and_last(study), study.search.reduction_factor
    most = np.log((last + 1) / grace) / np.log(factor)
    return [
        tuple(grace * factor ** (k + start) for k in reversed(range(int(most - start + 1)))) for start in range(count)
    ]
