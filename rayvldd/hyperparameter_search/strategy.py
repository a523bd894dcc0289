"""Search strategies: proposal of trials and early stopping, based on the records of trials.

A strategy combines a sampler, which proposes points, with a stopping rule. Both read the history: all trials with
their states and evaluations, including running, failed and stopped ones. They do not depend on Ray Tune.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, cast, runtime_checkable

from rayvldd.config.domains import Domain, SettingValue
from rayvldd.config.search_plugins import RULES, SAMPLERS
from rayvldd.config.space import PointKey
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.learned_sources import NUM_FIRST, LearnedSources, start_points
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.stopping import StoppingRule, with_gain_required
from rayvldd.randomness import Stream, generator_of
from rayvldd.records.trial import Prediction, Trial, trial_id_of

_TRIES = 10
"""Proposals of a sampler for one trial, before a random point is taken; a model can prefer a known point for ever."""
_RANDOM_TRIES = 100
"""Random points for one trial, before the first one in order is taken."""


@dataclass(frozen=True)
class Proposal:
    """The next trial."""

    trial_id: str
    number: int
    point: dict[str, SettingValue]
    """The searched settings by dotted key."""
    is_requested: bool = False
    """Whether a user proposed the point."""
    prediction: Prediction | None = None
    """The recall that the sampler's model predicts there, if it has one."""


class Decision(StrEnum):
    """Whether a trial continues."""

    CONTINUE = "continue"
    STOP = "stop"


class SpaceExhaustedError(Exception):
    """Every point of the space has been proposed, and would not differ if it were run again."""


class NothingToGainError(Exception):
    """The sampler expects a smaller gain of a further trial than ``search.stop_below_gain``."""

    def __init__(self, gain: float) -> None:
        super().__init__(gain)
        self.gain = gain
        """In standard deviations of the noise of an evaluation."""


class SearchStrategy(Protocol):
    """Proposes trials and decides which of them continue, from the history of records.

    The history contains the trials of the study, with the same names in all sessions. Trials that were proposed and
    have not started are not included.
    """

    def propose(self, history: Collection[Trial]) -> Proposal:
        """The next trial; trials that were interrupted in an earlier session are proposed again before new ones.

        Raises:
            SpaceExhaustedError: if no point is left.
            NothingToGainError: if the study ends where a further trial is not worth it, and this one is not.
        """
        ...

    def decide(self, trial: Trial, history: Collection[Trial]) -> Decision:
        """Whether a trial continues after its last evaluation, which has just been recorded."""
        ...

    def reason_to_stop(self, trial_id: str) -> str:
        """Why :meth:`decide` has stopped a trial, for the user; empty if it has not."""
        ...


class Sampler(Protocol):
    """Proposes points."""

    def propose(
        self, trial_id: str, given: dict[str, SettingValue], history: Collection[Trial]
    ) -> dict[str, SettingValue]:
        """A point of the study's space.

        Args:
            trial_id: Name of the trial at the point; the history contains its outcome under this name.
            given: Settings that are already fixed, e.g. by an initial point.
            history: The trials so far.
        """
        ...

    def repeated(self, trial_id: str, earlier: Trial | None) -> None:
        """Learn that the last point proposed under this name is known and will not run; another is proposed next.

        Args:
            trial_id: Name of the trial.
            earlier: The trial at the same point, whose outcome it has; None if that one has not started.
        """
        ...


@runtime_checkable
class PredictingSampler(Sampler, Protocol):
    """A sampler with a model that predicts the recalls of its proposals."""

    def prediction(self, trial_id: str) -> Prediction | None:
        """The predicted recall of a trial that was proposed; None if there was no model yet."""
        ...


@runtime_checkable
class GainExpectingSampler(Sampler, Protocol):
    """A sampler whose declaration says that it predicts the gain of its proposals."""

    def expected_gain(self) -> float | None:
        """The expected gain of the last proposal, in standard deviations of an evaluation's noise; None: no model."""
        ...


@runtime_checkable
class LearningSampler(Sampler, Protocol):
    """A sampler whose model uses earlier studies that are not comparable by recall."""

    def learn_from(self, learned: LearnedSources) -> None:
        """Use these studies from the first proposal on."""
        ...


SamplerFactory = Callable[[Study, Collection[Trial], Sequence[Trial]], Sampler]
"""Makes a sampler from the study, its trials so far and trials of earlier studies at points of its space. The
``implementation`` of a sampler's declaration has this type; that of a stopping rule takes only the study."""
PointTaker = Callable[[str], Mapping[str, SettingValue] | None]
StoppingRuleFactory = Callable[[Study], StoppingRule]


class SampledSearch:
    """A strategy of one sampler and one stopping rule.

    The decisions of earlier sessions are replayed first, from the evaluations in their order of arrival. A trial whose
    process died after the decision to stop it is therefore stopped at its next report.

    If trials share their seed, a point that was proposed before is not proposed again.

    Args:
        study: The study.
        sampler: Proposes points.
        rule: Stops trials early.
        known: The trials of earlier sessions.
        take_point: Returns the point that a user has proposed for the trial of a name, if there is one.
        initial: Points that are proposed first; default: the initial points of the study.
    """

    def __init__(
        self,
        study: Study,
        sampler: Sampler,
        rule: StoppingRule,
        known: Collection[Trial],
        take_point: PointTaker = lambda trial_id: None,
        initial: Sequence[dict[str, SettingValue]] | None = None,
    ) -> None:
        self.sampler, self._rule = sampler, rule
        self._space, self._seed = study.space, study.seed
        self._runs_once, self._least_gain = study.trials_share_seed, study.search.stop_below_gain
        self._take_point = take_point
        from_study = next_number(known) - sum(trial.is_requested for trial in known)
        first = study.initial_points() if initial is None else initial
        self._initial = deque(self._distinct(first)[from_study:])
        self._name_at: dict[PointKey, str] = {self._space.key_of(trial.point): trial.trial_id for trial in known}
        """Name of the trial at each point that was proposed."""
        by_number = sorted(known, key=lambda trial: trial.number)
        self._cut_off = deque(trial for trial in by_number if trial.state == "running")
        self._numbers = itertools.count(next_number(known))
        self._judged: dict[str, int] = {}
        """Outer step of the last evaluation with a decision, by trial."""
        self._stopped: dict[str, str] = {}
        """Why trials were stopped."""
        self._repeat(known)

    def propose(self, history: Collection[Trial]) -> Proposal:
        """The next trial: first interrupted trials, then a user's points, initial points, the sampler's proposals."""
        if self._cut_off:
            trial = self._cut_off.popleft()
            given = typed_point(trial.point, self._space.domains)
            return Proposal(trial.trial_id, trial.number, self.sampler.propose(trial.trial_id, given, history))
        if self._runs_once and len(self._name_at) == self._space.num_points:
            raise SpaceExhaustedError
        number = next(self._numbers)
        requested = self._take_point(trial_id_of(number))
        given = self._initial.popleft() if self._initial and requested is None else {}
        if requested is not None:
            given = self._space.completed(requested)
        point = self._new_point(number, typed_point(given, self._space.domains), history)
        if not given:
            self._refuse_without_gain(trial_id_of(number))
        self._name_at[self._space.key_of(point)] = trial_id_of(number)
        return Proposal(
            trial_id_of(number), number, point, requested is not None, self._prediction(trial_id_of(number))
        )

    def _refuse_without_gain(self, trial_id: str) -> None:
        """Withdraw a proposal of the sampler that is not worth a trial."""
        gain = self.sampler.expected_gain() if isinstance(self.sampler, GainExpectingSampler) else None
        if gain is not None and self._least_gain is not None and gain < self._least_gain:
            self.sampler.repeated(trial_id, None)
            raise NothingToGainError(gain)

    def _prediction(self, trial_id: str) -> Prediction | None:
        return self.sampler.prediction(trial_id) if isinstance(self.sampler, PredictingSampler) else None

    def _new_point(
        self, number: int, given: dict[str, SettingValue], history: Collection[Trial]
    ) -> dict[str, SettingValue]:
        """A point with the given settings, and one that was not proposed before if the trials share their seed."""
        trial_id = trial_id_of(number)
        if self._is_known(given) and self._space.is_complete(given):
            given = {}
        for _ in range(_TRIES):
            point = self.sampler.propose(trial_id, given, history)
            if not self._is_known(point):
                return point
            name = self._name_at[self._space.key_of(point)]
            self.sampler.repeated(trial_id, next((trial for trial in history if trial.trial_id == name), None))
        return self.sampler.propose(trial_id, self._untried(number, given), history)

    def _is_known(self, point: Mapping[str, SettingValue]) -> bool:
        return self._runs_once and self._space.key_of(point) in self._name_at

    def _untried(self, number: int, given: dict[str, SettingValue]) -> dict[str, SettingValue]:
        """A random new point of a finite space, for a sampler that keeps proposing known ones."""
        if self._space.num_points is None:
            return given
        generator = generator_of(self._seed, Stream.UNTRIED, number)

        def value_at(key: str, domain: Domain) -> SettingValue:
            return given[key] if key in given else domain.nth(int(generator.integers(domain.num_values or 1)))

        for _ in range(_RANDOM_TRIES):
            if not self._is_known(point := self._space.point(value_at)):
                return point
        return next(point for point in self._space.every_point() if not self._is_known(point))

    def _distinct(self, points: Sequence[dict[str, SettingValue]]) -> list[dict[str, SettingValue]]:
        """The initial points without repetitions of complete ones, if trials share their seed."""
        keys = [self._space.key_of(typed_point(point, self._space.domains)) for point in points]
        return [
            point
            for place, point in enumerate(points)
            if not (self._runs_once and self._space.is_complete(point) and keys[place] in keys[:place])
        ]

    def decide(self, trial: Trial, history: Collection[Trial]) -> Decision:
        """Apply the rule to a new evaluation; a decision to stop is final.

        A resumed trial reports its best evaluation again, for which the decision was made before.
        """
        name = trial.trial_id
        if name not in self._stopped and trial.outer_step > self._judged.get(name, -1):
            self._judged[name] = trial.outer_step
            reason = self._rule.reason_to_stop(trial, history)
            if reason is not None:
                self._stopped[name] = reason
        return Decision.STOP if name in self._stopped else Decision.CONTINUE

    def reason_to_stop(self, trial_id: str) -> str:
        """Why a trial was stopped; empty if it was not."""
        return self._stopped.get(trial_id, "")

    def _repeat(self, known: Collection[Trial]) -> None:
        past = {trial.trial_id: replace(trial, evaluations=[]) for trial in known}
        evaluations = [(trial.trial_id, evaluation) for trial in known for evaluation in trial.evaluations]
        for trial_id, evaluation in sorted(evaluations, key=lambda entry: entry[1].search_seconds):
            if trial_id not in self._stopped:
                past[trial_id].evaluations.append(evaluation)
                self.decide(past[trial_id], past.values())


def next_number(history: Collection[Trial]) -> int:
    """The number of the first new trial."""
    return 1 + max((trial.number for trial in history), default=-1)


def make_strategy(
    study: Study,
    known: Collection[Trial] = (),
    earlier: Sequence[Trial] = (),
    take_point: PointTaker = lambda trial_id: None,
    learned: LearnedSources | None = None,
) -> SearchStrategy:
    """Make the strategy of a study.

    Args:
        study: The study, which names sampler and scheduler.
        known: The trials of the study's earlier sessions.
        earlier: Trials of other studies at points of this space, which the sampler knows from the start.
        take_point: Returns the point that a user has proposed for the trial of a name, if there is one.
        learned: Earlier studies, whose points are proposed first and whose predictions a sampler may use.
    """
    make_sampler = cast(SamplerFactory, SAMPLERS[study.search.sampler].factory())
    sampler = make_sampler(study, known, earlier)
    if learned is not None and isinstance(sampler, LearningSampler):
        sampler.learn_from(learned)
    first = first_points_of(study, learned)
    return SampledSearch(study, sampler, make_stopping_rule(study), known, take_point, first)


def make_stopping_rule(study: Study) -> StoppingRule:
    """Make the rule of a study's scheduler, with what its settings add to it."""
    search = study.search
    rule = cast(StoppingRuleFactory, RULES[search.scheduler].factory())(study)
    if search.stop_without_gain and RULES[search.scheduler].stops:
        rule = with_gain_required(rule, study)
    return rule


def first_points_of(study: Study, learned: LearnedSources | None) -> list[dict[str, SettingValue]]:
    """The points that a study begins with: those of earlier studies, and its initial points."""
    initial = study.initial_points()
    if learned is None or not SAMPLERS[study.search.sampler].begins_with_earlier:
        return initial
    return start_points(initial, learned, min(NUM_FIRST, study.search.num_trials // 2))
