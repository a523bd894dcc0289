"""Searches in simulated time: the sampler and the scheduler of a study, over recorded responses in place of trials.

The study's own strategy proposes and stops, on records that are kept as in a real search; trials take the recorded
seconds and report the recorded recalls.
"""

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from recorded_responses import Response, SearchAnswers, Table

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.strategy import Decision, Proposal, SearchStrategy, make_strategy
from rayvldd.records.trial import Evaluation, Trial


@dataclass(frozen=True)
class Curve:
    """The best recall so far, by trial-seconds spent."""

    points: list[tuple[float, float]]
    """Trial-seconds and best recall each time that it rose."""
    trial_seconds: float
    """Of the whole search."""
    stopped: int = 0
    """Trials that the scheduler ended."""
    trials: int = 0

    @property
    def best(self) -> float:
        """What the whole search has reached."""
        return self.points[-1][1] if self.points else 0.0

    def at(self, trial_seconds: float) -> float:
        """The best recall when so much was spent; 0 before there is any."""
        return max((recall for spent, recall in self.points if spent <= trial_seconds), default=0.0)


def seconds_of_mean(curves: Sequence[Curve], recall: float) -> float | None:
    """Trial-seconds at which the mean of the curves reaches a recall, if it does."""
    moments = sorted({spent for curve in curves for spent, _ in curve.points})
    return next((spent for spent in moments if np.mean([curve.at(spent) for curve in curves]) >= recall), None)


@dataclass(frozen=True)
class Expected:
    """What random search of some trials is expected to reach, and to spend."""

    recall: float
    trial_seconds: float


def random_search(table: Table, num_trials: int) -> Expected:
    """The exact means of random search over the recorded runs, every trial to its end.

    The runs are spread over the space evenly, so that random search draws from them without repetition. A failed run
    makes no set, and spends its seconds. The best of ``n`` of ``N`` runs is the ``k``-th in order of recall with
    probability ``(C(k, n) - C(k - 1, n)) / C(N, n)``. A mean over replays differs from this by chance: twenty of them
    by up to 0.2 of recall here.
    """
    return expected_of(table.responses, num_trials)


def expected_of(responses: Sequence[Response], num_trials: int) -> Expected:
    """The same of any runs that are spread over a space."""
    recalls = sorted(0.0 if response.failed else response.best for response in responses)
    drawn = min(num_trials, len(recalls))  # then every run has answered, and they answer again
    shares = [math.comb(k, drawn) - math.comb(k - 1, drawn) for k in range(1, len(recalls) + 1)]
    recall = sum(share * recall for share, recall in zip(shares, recalls, strict=True))
    seconds = float(np.mean([response.seconds_in_all for response in responses]))
    return Expected(recall / math.comb(len(recalls), drawn), num_trials * seconds)


def _rises(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    best, rises = 0.0, []
    for spent, recall in sorted(points):
        if recall > best:
            best = recall
            rises.append((spent, recall))
    return rises


def our_search(table: Table, study: Study, trial_seconds: float) -> tuple[Curve, float]:
    """The study's own search, and which share of its trials was answered by a run of the very same search.

    It continues until a number of trial-seconds is spent, beyond the trials of the study.
    """
    answers = SearchAnswers(table, study.seed)
    curve = Replay(answers, study).run(trial_seconds)
    return curve, answers.own / (answers.own + answers.others)


class Answer(Protocol):
    """A distillation, recorded or under way, that a trial reports from."""

    @property
    def failed(self) -> str: ...
    @property
    def outer_steps(self) -> Sequence[int]: ...
    @property
    def seconds(self) -> Sequence[float]: ...
    @property
    def val_mean_recalls(self) -> Sequence[float]: ...
    @property
    def seconds_in_all(self) -> float: ...

    def has(self, number: int) -> bool:
        """Whether it comes to an evaluation of this number."""
        ...


class Answering(Protocol):
    """Substitute for the trials of one search."""

    def nearest(self, point: Mapping[str, SettingValue]) -> Answer: ...


@dataclass
class _Running:
    """A trial on one of the workers."""

    record: Trial
    response: Answer
    began: float
    reports: Iterator[int] = field(default_factory=itertools.count)


class Replay:
    """Workers that are never idle, and the clock that they share."""

    def __init__(self, answers: Answering, study: Study, strategy: SearchStrategy | None = None) -> None:
        self.answers, self.workers = answers, study.search.max_concurrent
        self.strategy = make_strategy(study) if strategy is None else strategy
        self.records: list[Trial] = []
        self._queue: list[tuple[float, int, _Running, int | None]] = []
        self._points: list[tuple[Answer, float, float]] = []
        self._best, self._stopped = 0.0, 0

    def run(self, trial_seconds: float, enough: float = math.inf) -> Curve:
        """Search until a number of trial-seconds is spent, or a recall is reached that is the best one possible."""
        end = trial_seconds / self.workers
        for _ in range(self.workers):
            self._start(0.0)
        while self._queue[0][0] <= end and self._best < enough:
            now, _, running, report = heapq.heappop(self._queue)
            if report is None:
                self._end(running, now)
            elif self._report(running, report, now):
                self._await_next(running)
        made_sets = [(spent, recall) for answer, spent, recall in self._points if not answer.failed]
        return Curve(_rises(made_sets), trial_seconds, self._stopped, len(self.records) - self.workers)

    def _start(self, now: float) -> None:
        proposal: Proposal = self.strategy.propose(self.records)
        self.records.append(Trial(proposal.trial_id, proposal.number, 0, proposal.point, Path("nowhere")))
        self._await_next(_Running(self.records[-1], self.answers.nearest(proposal.point), now))

    def _await_next(self, running: _Running) -> None:
        """Queue the trial's next report, or its end."""
        number, response = next(running.reports), running.response
        report = number if response.has(number) else None
        takes = response.seconds_in_all if report is None else response.seconds[report]
        heapq.heappush(self._queue, (running.began + takes, running.record.number, running, report))

    def _report(self, running: _Running, number: int, now: float) -> bool:
        """Enter an evaluation; returns whether the trial goes on."""
        response, record = running.response, running.record
        best = max(response.val_mean_recalls[: number + 1])
        recall, step = response.val_mean_recalls[number], response.outer_steps[number]
        metrics = {VAL_MEAN_RECALL: recall, BEST_VAL_MEAN_RECALL: best}
        record.evaluations.append(Evaluation(step, metrics, now))
        self._points.append((response, self.workers * now, best))
        self._best = self._best if response.failed else max(self._best, best)
        if self.strategy.decide(record, self.records) is Decision.CONTINUE:
            return True
        self._stopped += 1
        record.state = "stopped"
        self._start(now)
        return False

    def _end(self, running: _Running, now: float) -> None:
        """A trial has reached its last step, or was given up."""
        running.record.state = "failed" if running.response.failed else "finished"
        self._start(now)
