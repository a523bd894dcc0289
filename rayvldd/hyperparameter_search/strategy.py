"""What a search tries next and what it stops early, decided from the records of its trials.

A strategy is a sampler, which proposes points, and a stopping rule. Both read the history: every trial with its state
and its evaluations, those that run, failed or were stopped included. Neither knows what runs the trials.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, cast

from rayvldd.config.domains import Scalar
from rayvldd.config.search_plugins import RULES, SAMPLERS
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.stopping import StoppingRule, with_gain_required
from rayvldd.records.trial import Trial, trial_id_of


@dataclass(frozen=True)
class Proposal:
    """The next trial."""

    trial_id: str
    number: int
    point: dict[str, Scalar]
    """The searched settings by dotted key."""


class Decision(StrEnum):
    """Whether a trial goes on."""

    CONTINUE = "continue"
    STOP = "stop"


class SearchStrategy(Protocol):
    """Proposes trials and decides which of them go on, from the history of records.

    A history holds the trials of the study, each under the same name whatever session runs it. Trials that were
    proposed and have not begun are not in it.
    """

    def propose(self, history: Collection[Trial]) -> Proposal:
        """The next trial; one that an earlier session left running is proposed again, before new ones."""
        ...

    def decide(self, trial: Trial, history: Collection[Trial]) -> Decision:
        """Whether a trial whose last evaluation has just been entered goes on."""
        ...


class Sampler(Protocol):
    """Proposes points."""

    def propose(self, trial_id: str, given: dict[str, Scalar], history: Collection[Trial]) -> dict[str, Scalar]:
        """A point of the study's space.

        Args:
            trial_id: The trial that will run it; the history has its outcome under this name.
            given: Settings that are decided already, e.g. by an initial point.
            history: The trials so far.
        """
        ...


SamplerFactory = Callable[[Study, Collection[Trial], Sequence[Trial]], Sampler]
"""Makes a sampler from the study, its trials so far and trials of earlier studies at points of its space. What the
``implementation`` of a sampler's declaration is; that of a stopping rule takes the study and returns the rule."""
StoppingRuleFactory = Callable[[Study], StoppingRule]


class SampledSearch:
    """A strategy of one sampler and one stopping rule.

    Every decision of earlier sessions is repeated first, from their evaluations in the order in which they came: a
    trial that was to stop and whose process died before it did is stopped when it reports again.

    Args:
        study: What is searched; its initial points come first.
        sampler: Proposes points.
        rule: Stops trials early.
        known: The trials of earlier sessions.
    """

    def __init__(self, study: Study, sampler: Sampler, rule: StoppingRule, known: Collection[Trial]) -> None:
        self.sampler, self._rule = sampler, rule
        self._domains, self._initial = study.space.domains, study.initial_points()
        by_number = sorted(known, key=lambda trial: trial.number)
        self._cut_off = deque(trial for trial in by_number if trial.state == "running")
        self._numbers = itertools.count(next_number(known))
        self._judged: dict[str, int] = {}
        """The outer step of the last evaluation that was decided on, by trial."""
        self._stopped: set[str] = set()
        self._repeat(known)

    def propose(self, history: Collection[Trial]) -> Proposal:
        """The next trial: those that were cut off, then the initial points, then what the sampler proposes."""
        if self._cut_off:
            trial = self._cut_off.popleft()
            number, trial_id, given = trial.number, trial.trial_id, trial.point
        else:
            number = next(self._numbers)
            trial_id, given = trial_id_of(number), self._initial[number] if number < len(self._initial) else {}
        point = self.sampler.propose(trial_id, typed_point(given, self._domains), history)
        return Proposal(trial_id, number, point)

    def decide(self, trial: Trial, history: Collection[Trial]) -> Decision:
        """Ask the rule about a new evaluation; a trial that was to stop stays so.

        A trial that was cut off repeats its best evaluation when it continues, which was decided on before.
        """
        name = trial.trial_id
        if name not in self._stopped and trial.outer_step > self._judged.get(name, -1):
            self._judged[name] = trial.outer_step
            if self._rule.should_stop(trial, history):
                self._stopped.add(name)
        return Decision.STOP if name in self._stopped else Decision.CONTINUE

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


def make_strategy(study: Study, known: Collection[Trial] = (), earlier: Sequence[Trial] = ()) -> SearchStrategy:
    """The strategy that a study names.

    Args:
        study: What is searched, and how.
        known: The trials of the study's earlier sessions.
        earlier: Trials of other studies at points of this space, which the sampler knows from the start.
    """
    search = study.search
    make_sampler = cast(SamplerFactory, SAMPLERS[search.sampler].factory())
    make_rule = cast(StoppingRuleFactory, RULES[search.scheduler].factory())
    rule = make_rule(study)
    if search.stop_without_gain and RULES[search.scheduler].stops:
        rule = with_gain_required(rule, study)
    return SampledSearch(study, make_sampler(study, known, earlier), rule, known)
