"""The sampler of learning curves beside TPE and random search, over the pools of recorded tasks.

    python tests/benchmarks/search_curves.py                    the figures of the development tasks
    python tests/benchmarks/search_curves.py --role test        of the test tasks; each look is counted
    python tests/benchmarks/search_curves.py --task NAME        of one task
    python tests/benchmarks/search_curves.py --only NAME,NAME   some of them
    python tests/benchmarks/search_curves.py --json             one JSON object on standard output, the rest aside

All searches stop trials by the study's ASHA, and their samplers rank the same pool of runs (``search_pool.py``).

The budget of one search is the trial-seconds until its best recall reaches the exact mean of random search of 24 whole
trials, divided by what that spends. A figure without a task in its name is the interquartile mean of these over tasks
and seeds, and its interval the middle 95 % when the seeds of each task are drawn again (stratified bootstrap). It has
no value where more than a quarter of the searches end before. Names that end in a task have the time at which the
*mean* of the searches reaches that recall. ``_none`` is without published points, ``_8`` with eight workers instead of
two. ``learned`` searches begin with what the other recorded tasks tell (``--learn-from``); ``harm`` is the same after
the recalls of these were shuffled or reversed, divided by a search without them.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import get_args

import numpy as np
from figures import Row, as_json, figures_parser, measured, named, print_rows
from recorded_responses import Answers, Table
from search_pool import Pool, pool_search, source_of, study_of
from search_replay import Curve, Expected, Replay, random_search
from search_tasks import Role, recorded_tasks, search_tasks, tables_of

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.source_model import Source, quantile_targets
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

    @property
    def tables(self) -> dict[str, Table]:
        """The tables of the pools."""
        return {task: pool.table for task, pool in self.pools.items()}


def _pools(role: Role, name: str | None) -> dict[str, Pool]:
    """The pools by task."""
    return {task.name: _pool_of(task.name) for task in recorded_tasks(role) if name in (None, task.name)}


@cache
def _pool_of(name: str) -> Pool:
    """The first table of a task, since other seeds are other responses at other points.

    It is loaded once, so that a look at a test task is counted once.
    """
    return Pool(tables_of(search_tasks()[name])[0])


@cache
def _learned(role: Role, task: str, kind: str, seed: int) -> LearnedSources:
    """What the other recorded tasks tell about a task; those for development tell about test tasks, too.

    Args:
        role: Of the task.
        task: Its name.
        kind: ``right``, or what is done to the recalls of the others: ``shuffled``, ``reversed``.
        seed: Seed of the shuffles.
    """
    own = _pool_of(task)
    pools = {**_pools("development", None), **_pools(role, None)}
    sources = [source_of(name, pool, own.table.study) for name, pool in pools.items() if name != task]
    if kind == "shuffled":
        sources = [_shuffled(source, seed) for source in sources]
    elif kind == "reversed":
        sources = [_reversed(source) for source in sources]
    return LearnedSources(own.space, sources, 0)


def _shuffled(source: Source, seed: int) -> Source:
    order = np.random.default_rng(seed).permutation(len(source.outcomes))
    return replace(source, outcomes=[source.outcomes[index] for index in order])


def _reversed(source: Source) -> Source:
    """The source with the outcome of the best run at the point of the worst one, and so on."""
    order = np.argsort(quantile_targets(source.outcomes), kind="stable").tolist()
    outcomes = dict(zip(order, (source.outcomes[index] for index in reversed(order)), strict=True))
    return replace(source, outcomes=[outcomes[index] for index in range(len(order))])


@cache
def _searches(conditions: Conditions, task: str, sampler: str, way: str) -> list[Curve]:
    pool, (workers, published) = conditions.pools[task], _WAYS[way]
    until = (_UNTIL_TINY if conditions.tiny else _UNTIL) * _theirs(pool).trial_seconds
    studies = (study_of(pool, seed, workers, published) for seed in range(conditions.seeds))
    return [pool_search(pool, sampler, study, until) for study in studies]


@cache
def _learned_searches(conditions: Conditions, kind: str, task: str) -> list[Curve]:
    """Searches by ``curves`` with two workers and published points, which learn from other tasks."""
    pool = _pool_of(task)
    until = (_UNTIL_TINY if conditions.tiny else _UNTIL) * _theirs(pool).trial_seconds
    found = []
    for seed in range(conditions.seeds):
        learned = _learned(conditions.role, task, kind, seed if kind == "shuffled" else 0)
        found.append(pool_search(pool, "curves", study_of(pool, seed, 2, True, learned), until, learned))
    return found


@dataclass(frozen=True)
class Budgets:
    """Budgets of single searches, one array for each task."""

    by_task: Sequence[np.ndarray]

    @classmethod
    def of(cls, tables: Mapping[str, Table], searches: Callable[[str], list[Curve]]) -> "Budgets":
        """Of all tasks, by their tables; infinite where a search does not reach the recall of random search."""
        found = []
        for task, table in tables.items():
            theirs = random_search(table, RANDOM_TRIALS)
            reached = (
                next((spent for spent, recall in curve.points if recall >= theirs.recall), math.inf)
                for curve in searches(task)
            )
            found.append(np.array(list(reached)) / theirs.trial_seconds)
        return cls(found)

    def mean(self, generator: np.random.Generator | None = None) -> float:
        """Interquartile mean over tasks and seeds; of seeds drawn again within each task if there is a generator."""
        drawn = (one if generator is None else generator.choice(one, len(one)) for one in self.by_task)
        together = np.sort(np.concatenate(list(drawn)))
        cut = len(together) // 4
        return float(together[cut : len(together) - cut].mean())


def headline(
    name: str, what: str, ours: Budgets, to_reach: float | None = None, theirs: Budgets | None = None
) -> Iterator[Row]:
    """An interquartile mean, or the ratio of two, with its interval."""
    own, other = np.random.default_rng(0), np.random.default_rng(1)

    def value(again: bool) -> float:
        mean = ours.mean(own if again else None)
        return mean if theirs is None else _ratio(mean, theirs.mean(other if again else None))

    yield from _interval(name, [value(True) for _ in range(_BOOTSTRAPS)])
    yield Row(name, what, _finite(value(False)), to_reach)


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
    if not conditions.pools:
        return
    names = {"": ("budget_vs_random", 0.25), "_none": ("budget_vs_random_none", 0.40), "_8": ("regret_8_workers", 0.35)}
    for way, (name, to_reach) in names.items():
        what = f"curves + ASHA over all {conditions.role} tasks, {_WAYS[way][0]} workers"
        what += "" if _WAYS[way][1] else ", no published points"
        yield from headline(f"{name}{conditions.suffix}", what, _budgets(conditions, "curves", way), to_reach)


def _budgets(conditions: Conditions, sampler: str, way: str) -> Budgets:
    return Budgets.of(conditions.tables, lambda task: _searches(conditions, task, sampler, way))


def budget_vs_random_learned(conditions: Conditions) -> Iterator[Row]:
    """``curves`` that learns from the other tasks, two workers, published points."""
    if len({**_pools("development", None), **conditions.pools}) < 2:
        return
    for task in conditions.pools:
        weights = _learned(conditions.role, task, "right", 0).weights_before
        yield Row(f"source_weight{conditions.suffix}_{task}", "highest weight of another task", float(weights.max()))
    ours = Budgets.of(conditions.tables, partial(_learned_searches, conditions, "right"))
    what = f"the same that learns from the other tasks, over all {conditions.role} tasks"
    yield from headline(f"budget_vs_random_learned{conditions.suffix}", what, ours, 0.15)


def harm(conditions: Conditions) -> Iterator[Row]:
    """What wrong sources cost."""
    if len({**_pools("development", None), **conditions.pools}) < 2:
        return
    without = _budgets(conditions, "curves", "")
    for kind in ("shuffled", "reversed"):
        ours = Budgets.of(conditions.tables, partial(_learned_searches, conditions, kind))
        what = f"the other tasks {kind} ÷ a search without them"
        yield from headline(f"harm_{kind}{conditions.suffix}", what, ours, 1.1, without)


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
    if conditions.pools:
        what = f"curves + ASHA ÷ TPE + ASHA over all {conditions.role} tasks, two workers"
        own, other = (_budgets(conditions, sampler, "") for sampler in ("curves", "tpe"))
        yield from headline(f"budget_vs_tpe_asha{conditions.suffix}", what, own, 0.75, other)


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


FIGURES = named(budget_vs_random, budget_vs_tpe_asha, budget_vs_random_learned, harm, proposal_s)


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
