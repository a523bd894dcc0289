"""The sampler of learning curves beside TPE and random search, over the pools of recorded tasks.

    python tests/benchmarks/search_curves.py                    the figures of the development tasks
    python tests/benchmarks/search_curves.py --role test        of the test tasks; each look is counted
    python tests/benchmarks/search_curves.py --task NAME        of one task
    python tests/benchmarks/search_curves.py --only NAME,NAME   some of them
    python tests/benchmarks/search_curves.py --json             one JSON object on standard output, the rest aside

All searches stop trials by the study's ASHA, and their samplers rank the same pool of runs (``search_pool.py``). A
budget is the trial-seconds until the mean best recall of the searches reaches the exact mean of random search of 24
whole trials, divided by what that spends. Names end in the task; ``_none`` is without published points, ``_8`` with
eight workers instead of two. The interval is the middle 95 % when the seeds are drawn again.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
from figures import Row, as_json, figures_parser, measured, named, print_rows
from recorded_responses import Answers, Table
from search_pool import Pool, pool_search, study_of
from search_replay import Curve, Expected, Replay, random_search
from search_tasks import Role, SearchTask, recorded_tasks, tables_of

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.strategy import make_strategy
from rayvldd.records.trial import Trial

RANDOM_TRIALS = 24
"""Whole trials of the random search whose mean is to be reached."""
_UNTIL, _UNTIL_TINY = 0.8, 0.1
"""Searches end when this share of its budget is spent."""
_BOOTSTRAPS = 1000
_WAYS = {"": (2, True), "_none": (2, False), "_8": (8, True)}
"""Workers, and whether the published points are tried first, by the end of a figure's name."""


@dataclass(frozen=True)
class Conditions:
    """What is replayed."""

    role: Role
    seeds: int
    tiny: bool
    task: str | None = None
    """None: all recorded tasks of the role."""

    @property
    def suffix(self) -> str:
        """Development figures are named so."""
        return "_dev" if self.role == "development" else ""

    @property
    def pools(self) -> dict[str, Pool]:
        """The pools by task."""
        return _pools(self.role, self.task)


@cache
def _pools(role: Role, name: str | None) -> dict[str, Pool]:
    """The pools by task; loaded once, so that a look at a test task is counted once."""
    return {task.name: _pool_of(task) for task in recorded_tasks(role) if name in (None, task.name)}


def _pool_of(task: SearchTask) -> Pool:
    """The first table of a task, since other seeds are other responses at other points."""
    return Pool(tables_of(task)[0])


@cache
def _searches(conditions: Conditions, task: str, sampler: str, way: str) -> list[Curve]:
    pool, (workers, published) = conditions.pools[task], _WAYS[way]
    until = (_UNTIL_TINY if conditions.tiny else _UNTIL) * _theirs(pool).trial_seconds
    studies = (study_of(pool, seed, workers, published) for seed in range(conditions.seeds))
    return [pool_search(pool, sampler, study, until) for study in studies]


@cache
def _theirs(pool: Pool) -> Expected:
    return random_search(pool.table, RANDOM_TRIALS)


def budget_vs_random(conditions: Conditions) -> Iterator[Row]:
    """Each sampler beside random search without early stopping."""
    for task, pool in conditions.pools.items():
        theirs = _theirs(pool)
        yield Row(f"recorded_runs_{task}", "runs in the pool", float(len(pool.points)))
        yield Row(f"random_recall_{task}", f"recall of random search of {RANDOM_TRIALS} trials, exact", theirs.recall)
        for way, (workers, published) in _WAYS.items():
            words = f"{workers} workers, {'published points first' if published else 'no published points'}"
            for sampler, label in (("curves", ""), ("tpe", "_tpe"), ("random", "_asha")):
                best = BestByTime(_searches(conditions, task, sampler, way))
                name = f"budget_vs_random{label}{conditions.suffix}_{task}{way}"
                draws = [best.seconds_to(theirs.recall, drawn) for drawn in _draws(conditions.seeds, 0)]
                yield from _interval(name, [seconds / theirs.trial_seconds for seconds in draws])
                value = _finite(best.seconds_to(theirs.recall) / theirs.trial_seconds)
                yield Row(name, f"{sampler} + ASHA: its budget, {words}", value)


def budget_vs_tpe_asha(conditions: Conditions) -> Iterator[Row]:
    """``curves`` beside TPE, with the same early stopping and the same points."""
    for task, pool in conditions.pools.items():
        recall = _theirs(pool).recall
        for way in _WAYS:
            name = f"budget_vs_tpe_asha{conditions.suffix}_{task}{way}"
            ours, theirs = (BestByTime(_searches(conditions, task, sampler, way)) for sampler in ("curves", "tpe"))
            draws = zip(_draws(conditions.seeds, 0), _draws(conditions.seeds, 1), strict=True)
            yield from _interval(
                name, [_ratio(ours.seconds_to(recall, a), theirs.seconds_to(recall, b)) for a, b in draws]
            )
            value = _finite(_ratio(ours.seconds_to(recall), theirs.seconds_to(recall)))
            yield Row(name, "budget of curves + ASHA ÷ that of TPE + ASHA", value)


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


def _draws(seeds: int, stream: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(stream)
    yield from (generator.integers(0, seeds, seeds) for _ in range(_BOOTSTRAPS))


def _ratio(ours: float, theirs: float) -> float:
    """Infinite where ours was not reached; 0 where theirs was not."""
    return ours / theirs if math.isfinite(ours) else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(name: str, values: Sequence[float]) -> Iterator[Row]:
    low, high = np.quantile(values, [0.025, 0.975], method="nearest").tolist()
    yield Row(f"{name}_low", "its lower end when the seeds are drawn again, 95 %", _finite(low))
    yield Row(f"{name}_high", "its upper end", _finite(high))


def proposal_s(conditions: Conditions) -> Iterator[Row]:
    """CPU seconds of a proposal, after searches of random points with ASHA."""
    pool = next(iter(conditions.pools.values()))
    for number, to_reach in ((4, None),) if conditions.tiny else ((40, 0.3), (200, 1.5)):
        study = study_of(pool, 0, 2, published=False)
        history = _history(pool.table, study, number)
        search = study.search.model_copy(update={"sampler": "curves", "num_start_trials": 3})
        strategy = make_strategy(study.model_copy(update={"search": search}), history)
        seconds = []
        for _ in range(5):
            began = time.process_time()
            strategy.propose(history)
            seconds.append(time.process_time() - began)
        what = f"CPU seconds of a proposal of curves after {number} trials, median of 5"
        yield Row(f"proposal_s_{number}", what, float(np.median(seconds)), to_reach)


def _history(table: Table, study: Study, number: int) -> list[Trial]:
    """Ended trials at random points of the space, each with the evaluations of the nearest run."""
    search = study.search.model_copy(update={"sampler": "random"})
    replay = Replay(Answers(table), study.model_copy(update={"search": search}))
    whole_s = float(np.mean([response.seconds_in_all for response in table.responses]))
    replay.run((10 + 0.5 * number) * whole_s)  # enough for all, since most trials are stopped
    return [trial for trial in replay.records if trial.state != "running"][:number]


FIGURES = named(budget_vs_random, budget_vs_tpe_asha, proposal_s)


def _arguments() -> argparse.Namespace:
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--role", choices=get_args(Role), default="development", help="which tasks are replayed")
    parser.add_argument("--seeds", type=int, default=40, help="searches of each kind")
    parser.add_argument("--task", help="one of the recorded tasks of the role; default: all")
    arguments = parser.parse_args()
    if not [task for task in recorded_tasks(arguments.role) if arguments.task in (None, task.name)]:
        named = f" --task {arguments.task}" if arguments.task else ""
        parser.error(f"--role {arguments.role}{named}: none is recorded\nNext: python tests/benchmarks/search_tasks.py")
    return arguments


def main() -> None:
    """Measure, print."""
    arguments = _arguments()
    conditions = Conditions(arguments.role, 2 if arguments.tiny else arguments.seeds, arguments.tiny, arguments.task)
    rows = print_rows(measured(FIGURES, arguments.only, conditions), sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(as_json(rows, "cpu"))


if __name__ == "__main__":
    main()
