"""The time that is left of work in progress, from its expected time and what has been measured of it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from rayvldd.config.study import Study
from rayvldd.console import time_as_text
from rayvldd.hyperparameter_search.time_left import weight_of_evaluation

_TRUSTED = 0.2
"""Share of the work from which on only its measured time counts, not the expected one: by then the processes are at
work."""


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
