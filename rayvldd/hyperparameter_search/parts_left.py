"""The time that is left of work in progress, from its expected time and what has been measured of it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median_low

from rayvldd.config.study import Study
from rayvldd.console import time_as_text
from rayvldd.hyperparameter_search.time_left import makespan, weight_of_evaluation

_TRUSTED = 0.2
"""Share of the work from which on only its measured time counts, not the expected one: by then the processes are at
work."""
_LATEST = 7
"""Trained students of a kind whose median is expected of the next ones."""
_STEP = 60
"""What a step of a training costs beside its pairs, in pairs: on one core of an AMD EPYC a step of the quickstart's
students on 10 pairs took 8.6 ms, and one on 100 pairs 19.4 ms."""


class PartsLeft:
    """The time that is left of a stage whose parts follow each other.

    Args:
        works: Work of each part by name, in order, in any common unit.
        expected_s: Expected seconds of all parts; 0: unknown.
        clock: Returns seconds.
    """

    def __init__(
        self, works: Mapping[str, float], expected_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._works, self._expected_s, self._clock = works, expected_s, clock
        self._began_s = clock()

    def seconds(self, part: str, share: float) -> float | None:
        """Estimate the remaining seconds of all parts.

        Args:
            part: The present part; those before it are done.
            share: How much of it is done, 0 to 1.

        Returns:
            The seconds; None if nothing was expected and nothing is done.
        """
        names, total = list(self._works), sum(self._works.values())
        done = sum(self._works[name] for name in names[: names.index(part)]) + share * self._works[part]
        spent = self._clock() - self._began_s
        if done <= 0:
            # Slower than expected, by an unknown factor: it is at least half as long again.
            return max(self._expected_s - spent, spent / 2) if self._expected_s > 0 else None
        measured = spent / done
        trust = min(1.0, done / total / _TRUSTED) if self._expected_s > 0 else 1.0
        return (trust * measured + (1 - trust) * self._expected_s / total) * (total - done)

    def words(self, part: str, share: float) -> str:
        """The estimate for a line of progress, e.g. ``about 3 min left``; empty if there is none."""
        return words_of_time_left(self.seconds(part, share))


def words_of_time_left(seconds: float | None) -> str:
    """An estimate for a line of progress; empty if there is none."""
    return "" if seconds is None else f"about {time_as_text(seconds)} left"


class DistillationLeft:
    """The time that one distillation has left, from the steps and evaluations of this process.

    Args:
        study: The study at the point of the distillation.
        clock: Returns seconds.
        evaluated_s: Seconds of the evaluations of earlier processes, if the distillation goes on.
    """

    def __init__(self, study: Study, clock: Callable[[], float] = time.monotonic, *, evaluated_s: float = 0.0) -> None:
        self._study, self._clock = study, clock
        self._times: list[float] = []
        """Ends of the steps since the last evaluation."""
        self._steps: list[float] = []
        """Seconds of the steps."""
        self._evaluation_s: float | None = None
        """Seconds of an evaluation with all students and epochs."""
        self._evaluating_s = evaluated_s

    def stepped(self) -> None:
        """Note the end of an outer step."""
        self._times.append(self._clock())

    def evaluated(self, outer_step: int, seconds_evaluating: float) -> None:
        """Note an evaluation.

        Args:
            outer_step: Its outer step.
            seconds_evaluating: Seconds of it and of all evaluations before it.
        """
        if seconds_evaluating < self._evaluating_s:  # the state was lost, and the distillation began again
            self._evaluating_s = 0.0
        seconds, self._evaluating_s = seconds_evaluating - self._evaluating_s, seconds_evaluating
        self._evaluation_s = seconds / weight_of_evaluation(self._study, outer_step)
        self._steps += self._lately()
        self._times = [self._clock()] if self._steps or self._times else []

    def seconds(self, outer_step: int) -> float | None:
        """Estimate the seconds after an outer step; None before two of them were timed."""
        # The first step of a process compiles and allocates: only the time after it counts.
        steps = [*self._steps, *self._lately()]
        if not steps:
            return None
        last = self._study.distillation.outer_steps
        every = self._study.distillation.evaluate_every
        numbers = range(math.ceil(outer_step / every), math.ceil(last / every) + 1)  # with that after this step
        weights = sum(weight_of_evaluation(self._study, min(every * number, last)) for number in numbers)
        of_steps = sum(steps) / len(steps) * (last - outer_step)
        return of_steps + (self._evaluation_s or 0.0) * weights

    def _lately(self) -> Sequence[float]:
        return [end - start for start, end in pairwise(self._times)]


class StudentsLeft:
    """The time that students have left, and models of all pairs, from the seconds of those that are trained.

    A student takes the median of the latest of its kind, so that one that is slow does not count for all, and the load
    of the machine does; before one of its kind is trained, it takes as long as those of the nearest kind by its work.
    The start of processes is not in their seconds.

    Args:
        works: Work of a student of each kind, in any common unit.
        at_a_time: How many are trained at the same time.
        clock: Returns seconds.
    """

    def __init__(self, works: Mapping[str, float], at_a_time: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._works, self._at_a_time, self._clock = works, at_a_time, clock
        self._left = dict.fromkeys(works, 0)
        self._seconds: dict[str, list[float]] = {}
        """Of those that are trained, by kind."""
        self._since_s = clock()

    def expect(self, kind: str, count: int) -> None:
        """Add students that are to be trained."""
        self._left[kind] += count

    def begin(self) -> None:
        """Note that the next of them begin, after a time in which none was trained."""
        self._since_s = self._clock()

    def trained(self, kind: str, seconds: float | None) -> None:
        """Note that one is trained.

        Args:
            kind: Its kind.
            seconds: Of its training and scoring; None if its scores were cached.
        """
        self._left[kind] = max(self._left[kind] - 1, 0)
        if seconds is not None:
            self._seconds.setdefault(kind, []).append(seconds)
            self._since_s = self._clock()

    def seconds(self) -> float | None:
        """Estimate the remaining seconds; None before the first one is trained."""
        if not self._seconds:
            return None
        each = {kind: self._each(kind) for kind, count in self._left.items() if count}
        longest_first = sorted(each, key=lambda kind: -each[kind])
        expected = makespan((each[kind] for kind in longest_first for _ in range(self._left[kind])), self._at_a_time)
        spent = self._clock() - self._since_s
        return expected - spent if spent <= expected else (spent - expected) / 2  # slower, by an unknown factor

    def words(self) -> str:
        """The estimate for a line of progress, e.g. ``about 3 min left``; empty if there is none."""
        return words_of_time_left(self.seconds())

    def _each(self, kind: str) -> float:
        """Seconds of one of a kind."""
        if kind in self._seconds:
            return median_low(self._seconds[kind][-_LATEST:])
        known = {one: median_low(seconds[-_LATEST:]) / self._works[one] for one, seconds in self._seconds.items()}
        nearest = min(known, key=lambda one: abs(math.log(self._works[one] / self._works[kind])))
        return known[nearest] * self._works[kind]


def work_of_training(num_pairs: int, batch_size: int, epochs: int) -> float:
    """The work of training a model on pairs, in pairs: steps on few pairs take nearly as long as those on many."""
    return epochs * (num_pairs + _STEP * math.ceil(num_pairs / batch_size))
