"""Statistics of replayed searches: interquartile means with bootstrap intervals, and times of mean curves."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from figures import Row
from recorded_responses import Table
from search_conditions import RANDOM_TRIALS
from search_replay import Curve, random_search

_BOOTSTRAPS = 1000


@dataclass(frozen=True)
class PerSearch:
    """Values of single searches, one array for each task."""

    by_task: Sequence[np.ndarray]

    @classmethod
    def budgets(cls, tables: Mapping[str, Table], searches: Callable[[str], list[Curve]]) -> "PerSearch":
        """Share of the budget until a search reaches the recall of random search; infinite where it does not."""
        found = []
        for task, table in tables.items():
            theirs = random_search(table, RANDOM_TRIALS)
            reached = (
                next((spent for spent, recall in curve.points if recall >= theirs.recall), math.inf)
                for curve in searches(task)
            )
            found.append(np.array(list(reached)) / theirs.trial_seconds)
        return cls(found)

    @classmethod
    def regrets(cls, tables: Mapping[str, Table], searches: Callable[[str], list[Curve]], share: float) -> "PerSearch":
        """How far a search still is from the best recorded run when a share of the budget is spent.

        0 is the best run, 1 what one random trial is expected to reach; a search that has less counts as 1.
        """
        found = []
        for task, table in tables.items():
            best = max(response.best for response in table.responses if not response.failed)
            least, spent = random_search(table, 1).recall, share * random_search(table, RANDOM_TRIALS).trial_seconds
            recalls = np.array([curve.at(spent) for curve in searches(task)])
            found.append(np.minimum(1.0, (best - recalls) / (best - least)))
        return cls(found)

    def mean(self, generator: np.random.Generator | None = None) -> float:
        """Interquartile mean over tasks and seeds; of seeds drawn again within each task if there is a generator."""
        drawn = (one if generator is None else generator.choice(one, len(one)) for one in self.by_task)
        together = np.sort(np.concatenate(list(drawn)))
        cut = len(together) // 4
        return float(together[cut : len(together) - cut].mean())


def headline(
    name: str, what: str, ours: PerSearch, to_reach: float | None = None, theirs: PerSearch | None = None
) -> Iterator[Row]:
    """An interquartile mean, or the ratio of two, with its interval."""
    own, other = np.random.default_rng(0), np.random.default_rng(1)

    def value(again: bool) -> float:
        mean = ours.mean(own if again else None)
        return mean if theirs is None else ratio(mean, theirs.mean(other if again else None))

    yield from interval(name, [value(True) for _ in range(_BOOTSTRAPS)])
    yield Row(name, what, finite(value(False)), to_reach)


class BestByTime:
    """The best recall of several searches at each moment at which one of them rises."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self._moments = np.array(sorted({spent for curve in curves for spent, _ in curve.points}))
        self._best = np.stack([self._at_moments(curve) for curve in curves])

    def _at_moments(self, curve: Curve) -> np.ndarray:
        spent, recalls = (np.array([0.0, *column]) for column in zip(*curve.points, strict=True))
        best: np.ndarray = recalls[np.searchsorted(spent, self._moments, side="right") - 1]
        return best

    def seconds_to(self, recall: float, drawn: np.ndarray | None = None) -> float:
        """Trial-seconds until the mean of all searches, or of drawn ones, reaches a recall; infinite if it does not."""
        means = (self._best if drawn is None else self._best[drawn]).mean(0)
        reached = np.flatnonzero(means >= recall)
        return float(self._moments[reached[0]]) if len(reached) else math.inf


def drawn_again(seeds: int, stream: int) -> Iterator[np.ndarray]:
    """Seeds drawn again, once for each sample of the bootstrap."""
    generator = np.random.default_rng(stream)
    yield from (generator.integers(0, seeds, seeds) for _ in range(_BOOTSTRAPS))


def ratio(ours: float, theirs: float) -> float:
    """Infinite where ours was not reached; 0 where theirs was not."""
    return ours / theirs if math.isfinite(ours) else math.inf


def finite(value: float) -> float | None:
    """None where it is infinite."""
    return value if math.isfinite(value) else None


def interval(name: str, values: Sequence[float]) -> Iterator[Row]:
    """The ends of the middle 95 % of values."""
    low, high = np.quantile(values, [0.025, 0.975], method="nearest").tolist()
    yield Row(f"{name}_low", "its lower end when the seeds are drawn again, 95 %", finite(low))
    yield Row(f"{name}_high", "its upper end", finite(high))
