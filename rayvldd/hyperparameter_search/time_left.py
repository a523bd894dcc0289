"""Estimate of the time that is left of a study while its search runs, from what this study has measured.

It has the trials to come, each with the steps that the stopping rule is expected to leave it; the distillations of
finalists; the students of the test, and the models of all pairs. It has not what trials do not measure: experts that
trials train themselves. A load of the machine that changes later cannot be known.
"""

import heapq
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rayvldd.config.settings import STUDENTS_FOR_RATE
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.survival import Survival, rungs_of
from rayvldd.records.trial import Evaluation, Trial


@dataclass(frozen=True)
class SideBySide:
    """How much of a study runs at the same time, and the data of its models of all pairs."""

    trials: int
    students: int
    """Students and models of all pairs."""
    train_pairs: int = 0
    """Pairs in an epoch of a model of all pairs; 0 if the models exist, or if it is unknown."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a trial's work."""

    step: float
    """Of an outer step, with what is done beside it, as saving the state."""
    evaluation: float
    """Of an evaluation with all students and epochs."""


@dataclass(frozen=True)
class LaterStages:
    """Seconds of the stages after the search."""

    finalist: float
    """One distillation with a new seed, which is not stopped, and its students on validation."""
    test: float


NOTHING_TIMED = LaterStages(0.0, 0.0)
"""What is known of them if no trial was timed."""


def seconds_left(
    study: Study, trials: Collection[Trial], spent: float, side: SideBySide, total: int | None = None
) -> float | None:
    """Estimate the remaining seconds of a study: search, finalists and test.

    Args:
        study: The study.
        trials: Its trials so far.
        spent: Seconds of search so far, over all sessions.
        side: How much runs at the same time.
        total: Trials of the whole search; default: the most that the study runs.

    Returns:
        The seconds; None before the first outer steps have been timed.
    """
    paces = _paces(study, trials)
    if not paces:
        return None
    left = _Search(study, trials, paces, spent).seconds(study.max_trials if total is None else total, side.trials)
    if study.search.time_budget_s is not None:
        left = min(left, max(study.search.time_budget_s - spent, 0.0))
    later = later_stages(study, trials, side)
    runs = study.num_finalists * study.search.finalist_seeds
    again = _start(trials) + makespan([later.finalist] * runs, side.trials) if runs else 0.0
    return left + again + later.test


def later_stages(study: Study, trials: Collection[Trial], side: SideBySide) -> LaterStages:
    """Estimate the seconds of the stages after the search from its trials; zeros if none was timed."""
    paces = _paces(study, trials)
    if not paces:
        return NOTHING_TIMED
    pace = _mean(paces.values())
    students = study.evaluation.num_test_students / study.evaluation.num_students
    distillation = _seconds(study, pace, 0, study.largest("distillation.outer_steps"))
    return LaterStages(distillation + students * pace.evaluation, _start(trials) + _test(study, pace, side))


def _test(study: Study, pace: Pace, side: SideBySide) -> float:
    """Seconds of the students of the test, of distilled sets and random pairs, and of the models of all pairs.

    A student's time for a pair and epoch is taken for that of a model of all pairs too.
    """
    evaluation, search = study.evaluation, study.search
    sets = search.finalist_seeds if search.num_finalists else 1
    students = (sets + 1) * evaluation.num_test_students
    if (rates := len(evaluation.recipes_on_coresets)) > 1:
        students += rates * STUDENTS_FOR_RATE
    pairs = side.train_pairs * evaluation.full_data.total_epochs(evaluation.num_test_students)
    as_students = pairs / (evaluation.epochs * study.largest("distillation.num_pairs"))
    return pace.evaluation / evaluation.num_students * (students + as_students) / side.students


def makespan(works: Iterable[float], workers: int) -> float:
    """Seconds until the last of some works is done, if each begins in order where there is room."""
    free_at = [0.0] * workers
    for seconds in works:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def seen_side_by_side(trials: Collection[Trial]) -> int:
    """The most trials that were seen to run at the same time, at least one."""
    spans = [(trial.evaluations[0].search_seconds, trial) for trial in trials if trial.evaluations]

    def runs_at(trial: Trial, when: float) -> bool:
        begun, ended = trial.evaluations[0].search_seconds, trial.evaluations[-1].search_seconds
        return begun <= when and (when < ended or trial.state == "running")

    return max([1, *(sum(runs_at(other, when) for _, other in spans) for when, _ in spans)])


def _paces(study: Study, trials: Collection[Trial]) -> dict[str, Pace]:
    """The paces of the trials that have been timed, by name."""
    return {trial.trial_id: pace for trial in trials if (pace := _pace_of(study, trial)) is not None}


def _pace_of(study: Study, trial: Trial) -> Pace | None:
    """Measure the pace of a trial between its evaluations; None if it has no two of them.

    The stretch to the second evaluation has the first outer step, in which a process compiles and allocates. It counts
    only while there is no other.
    """
    known = trial.evaluations[1:] if len(trial.evaluations) > 2 else trial.evaluations
    if len(known) < 2:
        return None
    return _mean([_stretch(study, first, last) for first, last in pairwise(known)])


def _stretch(study: Study, first: Evaluation, last: Evaluation) -> Pace:
    """The pace from one evaluation of a trial to the next one."""
    evaluating = max(last.seconds_evaluating - first.seconds_evaluating, 0.0)
    worked = (last.seconds or 0.0) - (first.seconds or 0.0)
    whole = max(last.search_seconds - first.search_seconds, worked)
    steps = last.outer_step - first.outer_step
    return Pace(max(whole - evaluating, 0.0) / steps, evaluating / weight_of_evaluation(study, last.outer_step))


def weight_of_evaluation(study: Study, outer_step: int) -> float:
    """Cost of an evaluation at an outer step, in evaluations with all students and epochs."""
    here, whole = study.evaluation_at(outer_step), study.evaluation
    return here.num_students * here.epochs / (whole.num_students * whole.epochs)


def _mean(paces: Collection[Pace]) -> Pace:
    return Pace(float(np.mean([one.step for one in paces])), float(np.mean([one.evaluation for one in paces])))


def _seconds(study: Study, pace: Pace, done: int, steps: float) -> float:
    """Seconds of a trial's next outer steps, with their evaluations."""
    every = study.largest("distillation.evaluate_every")
    weights = [weight_of_evaluation(study, done + every * number) for number in range(1, math.ceil(steps / every) + 1)]
    share = steps / every / len(weights) if weights else 0.0
    return pace.step * steps + pace.evaluation * share * sum(weights)


def _start(trials: Collection[Trial]) -> float:
    """Seconds until the processes of a stage are at work: those before the first evaluation of the search."""
    firsts = [trial.evaluations[0] for trial in trials if trial.evaluations]
    return max(min(first.search_seconds - (first.seconds or 0.0) for first in firsts), 0.0)


class _Search:
    """The trials that are left.

    Args:
        study: The study.
        trials: Its trials so far.
        paces: Those that were timed, at least one.
        spent: Seconds of search so far.
    """

    def __init__(self, study: Study, trials: Collection[Trial], paces: dict[str, Pace], spent: float) -> None:
        self._study, self._trials, self._paces, self._spent = study, trials, paces, spent
        self._pace = _mean(paces.values())
        self._survival = Survival(rungs_of(study), trials)

    def seconds(self, total: int, workers: int) -> float:
        """Seconds until the last trial ends."""
        last = self._study.largest("distillation.outer_steps")
        running = [self._of_running(trial) for trial in self._trials if trial.state == "running"]
        fresh = [
            _seconds(self._study, self._pace, 0, self._survival.steps(0, last, place))
            for place in range(len(self._trials) + 1, total + 1)
        ]
        return makespan([*running, *fresh], workers)

    def _of_running(self, trial: Trial) -> float:
        """Seconds that a running trial is expected to have left."""
        study, pace = self._study, self._paces.get(trial.trial_id, self._pace)
        every, done = study.largest("distillation.evaluate_every"), max(trial.outer_step, 0)
        steps = self._survival.steps(done, study.last_step_at(trial.point), trial.number + 1)
        since = self._spent - trial.evaluations[-1].search_seconds if trial.evaluations else 0.0
        next_one = _seconds(study, pace, done, every)
        if since > next_one > 0:  # it is slower than it was, or than the others
            pace = Pace(pace.step * since / next_one, pace.evaluation * since / next_one)
        return max(_seconds(study, pace, done, steps) - since, 0.0)
