"""What the search benchmarks replay: tasks, ways to begin, samplers with their stopping rules, and what is learned."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import get_args

import numpy as np
from figures import figures_parser
from recorded_responses import Table
from search_pool import Pool, pool_search, source_of, study_of
from search_replay import Curve, Expected, random_search
from search_tasks import Role, SearchTask, recorded_tasks, search_tasks, tables_of

from rayvldd.config.domains import SettingValue
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.source_model import Source, quantile_targets

RANDOM_TRIALS = 24
"""Whole trials of the random search whose mean is to be reached, and whose seconds are the budget."""
UNTIL, _UNTIL_TINY = 1.0, 0.1
"""Searches end when this share of its budget is spent."""
_UNTIL_WHOLE = 2.0
"""The same for searches that stop no trial: every second one of them has not reached that mean at 1."""
WAYS = {"": (2, True), "_none": (2, False), "_8": (8, True)}
"""Workers, and whether the published points are tried first, by the end of a figure's name."""
ARMS = {
    "curves": ("curves", "asha"),
    "tpe": ("tpe", "asha"),
    "gp": ("gp", "asha"),
    "random": ("random", "asha"),
    "hyperband": ("random", "hyperband"),
    "whole": ("random", "none"),
}
"""Sampler and scheduler by name."""


@dataclass(frozen=True)
class Conditions:
    """What is replayed."""

    role: Role
    seeds: int
    tiny: bool
    task: str | None = None
    """None: all recorded tasks of the role without conditional settings."""

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Conditions":
        """From the command line of :func:`parsed`."""
        return cls(arguments.role, 2 if arguments.tiny else arguments.seeds, arguments.tiny, arguments.task)

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

    @property
    def can_learn(self) -> bool:
        """Whether there is another recorded task to learn from."""
        return len({**_pools("development", None), **self.pools}) > 1

    def until(self, task: str, whole: bool = False) -> float:
        """Trial-seconds at which a search of a task ends.

        Args:
            task: Its name.
            whole: Whether no trial is stopped.
        """
        share = _UNTIL_TINY if self.tiny else _UNTIL_WHOLE if whole else UNTIL
        return share * expected(_pool_of(task)).trial_seconds


def parsed(description: str | None, figures: Mapping[str, object]) -> argparse.Namespace:
    """The command line of a script that replays the tasks of a role.

    Args:
        description: Of the script.
        figures: By name.
    """
    parser = figures_parser(description, figures)
    parser.add_argument("--role", choices=get_args(Role), default="development", help="which tasks are replayed")
    parser.add_argument("--seeds", type=int, default=40, help="searches of each kind")
    parser.add_argument(
        "--task", help="one of the recorded tasks of the role without conditional settings; default: all"
    )
    arguments = parser.parse_args()
    if not _ranked(arguments.role, arguments.task):
        named = f" --task {arguments.task}" if arguments.task else ""
        if arguments.task in [task.name for task in recorded_tasks(arguments.role)]:
            parser.error(
                f"{named.strip()}: has conditional settings\nNext: python tests/benchmarks/search_rivals.py{named}"
            )
        parser.error(f"--role {arguments.role}{named}: none is recorded\nNext: python tests/benchmarks/search_tasks.py")
    return arguments


def _pools(role: Role, name: str | None) -> dict[str, Pool]:
    """The pools by task."""
    return {task.name: _pool_of(task.name) for task in _ranked(role, name)}


def _ranked(role: Role, name: str | None) -> list[SearchTask]:
    """The recorded tasks whose runs a sampler can rank, or the one of this name."""
    return [task for task in recorded_tasks(role) if not task.conditional and name in (None, task.name)]


@cache
def _pool_of(name: str) -> Pool:
    """The first table of a task, since other seeds are other responses at other points.

    It is loaded once, so that a look at a test task is counted once.
    """
    return Pool(tables_of(search_tasks()[name])[0])


@cache
def expected(pool: Pool) -> Expected:
    """What random search without early stopping reaches and spends."""
    return random_search(pool.table, RANDOM_TRIALS)


@cache
def searches(conditions: Conditions, task: str, arm: str, way: str) -> list[Curve]:
    """Searches of one kind, one for each seed.

    Args:
        conditions: The tasks.
        task: One of them.
        arm: One of :data:`ARMS`.
        way: One of :data:`WAYS`.
    """
    pool, (workers, published), (sampler, scheduler) = conditions.pools[task], WAYS[way], ARMS[arm]
    until = conditions.until(task, whole=scheduler == "none")
    found = []
    for seed in range(conditions.seeds):
        study = study_of(pool, seed, workers, published)
        search = study.search.model_copy(update={"scheduler": scheduler})
        found.append(pool_search(pool, sampler, study.model_copy(update={"search": search}), until))
    return found


@cache
def learned_searches(conditions: Conditions, kind: str, task: str) -> list[Curve]:
    """Searches by ``curves`` with two workers and published points, which learn from other tasks."""
    pool, found = _pool_of(task), []
    for seed in range(conditions.seeds):
        learned = learned_of(conditions.role, task, kind, seed if kind == "shuffled" else 0)
        study = study_of(pool, seed, 2, True, learned)
        found.append(pool_search(pool, "curves", study, conditions.until(task), learned))
    return found


@cache
def learned_of(role: Role, task: str, kind: str, seed: int) -> LearnedSources:
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
    change = _CHANGES[kind]
    return LearnedSources(own.space, [change(source, seed) for source in sources], 0)


def portfolio(role: Role, task: str) -> list[dict[str, SettingValue]]:
    """The three runs that the other recorded tasks would begin with, were they trusted whatever their weight."""
    learned = learned_of(role, task, "right", 0)
    return _Trusted(learned.coordinates.space, learned.sources, 0).first_points(candidates=_pool_of(task).points)


class _Trusted(LearnedSources):
    """Sources that name first points although they have little weight."""

    @cached_property
    def weights_to_begin(self) -> np.ndarray:
        return self.weights_before


def shuffled_source(source: Source, seed: int) -> Source:
    """The source with its outcomes at other points."""
    order = np.random.default_rng(seed).permutation(len(source.outcomes))
    return replace(source, outcomes=[source.outcomes[index] for index in order])


def reversed_source(source: Source) -> Source:
    """The source with the outcome of the best run at the point of the worst one, and so on."""
    order = np.argsort(quantile_targets(source.outcomes), kind="stable").tolist()
    outcomes = dict(zip(order, (source.outcomes[index] for index in reversed(order)), strict=True))
    return replace(source, outcomes=[outcomes[index] for index in range(len(order))])


_CHANGES: dict[str, Callable[[Source, int], Source]] = {
    "right": lambda source, seed: source,
    "shuffled": shuffled_source,
    "reversed": lambda source, seed: reversed_source(source),
}
