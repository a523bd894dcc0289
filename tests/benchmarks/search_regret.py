"""How good a search is at any time, what each of its parts adds, and what a portfolio of other tasks would add."""

from collections.abc import Callable, Iterator
from functools import partial

from figures import Row
from search_conditions import ARMS, WAYS, Conditions, learned_searches, portfolio, searches
from search_replay import Curve, random_search
from search_statistics import PerSearch, headline

from rayvldd.hyperparameter_search.learned_sources import NUM_FIRST

SHARES = (5, 10, 20, 33, 50, 100)
"""Percent of the budget of the random search."""


def regret(conditions: Conditions) -> Iterator[Row]:
    """Distance from the best recorded run by the share of the budget that is spent."""
    for way in ("", "_none"):
        for arm, (sampler, scheduler) in ARMS.items():
            words = f"{sampler} + {scheduler}, {'published points first' if WAYS[way][1] else 'no published points'}"
            for share in SHARES:
                regrets = PerSearch.regrets(conditions.tables, _searches(conditions, arm, way), share / 100)
                name = f"regret_{arm}{conditions.suffix}{way}_{share}"
                yield from headline(name, f"{words}: regret after {share} % of the budget", regrets)


def ablation(conditions: Conditions) -> Iterator[Row]:
    """Budgets of searches, each with one part more than the one before."""
    parts: dict[str, tuple[str, Callable[[str], list[Curve]]]] = {
        "random": ("random search, whole trials", _searches(conditions, "whole", "_none")),
        "stopping": ("with early stopping", _searches(conditions, "random", "_none")),
        "model": ("and the model of learning curves", _searches(conditions, "curves", "_none")),
        "published": ("and published points", _searches(conditions, "curves", "")),
    }
    if conditions.can_learn:
        parts["earlier"] = ("and what the other tasks tell", partial(learned_searches, conditions, "right"))
    for part, (what, found) in parts.items():
        budgets = PerSearch.budgets(conditions.tables, found)
        yield from headline(f"ablation_{part}{conditions.suffix}", what, budgets)


def first_points(conditions: Conditions) -> Iterator[Row]:
    """What the first points of a shipped portfolio would reach, which had been made of the other recorded tasks."""
    if not conditions.can_learn:
        return
    for task, pool in conditions.pools.items():
        published = [pool.nearest_point(point) for point in pool.table.study.initial_points()]
        for name, points in (("portfolio", portfolio(conditions.role, task)), ("published", published)):
            reached = (pool.nearest(point) for point in points)
            best = max((run.best for run in reached if not run.failed), default=0.0)
            words = f"{len(points)} of the other tasks" if name == "portfolio" else f"{len(points)} published"
            yield Row(f"first_points_{name}_{task}", f"best recall of the first points, {words}", best)
        expected = random_search(pool.table, NUM_FIRST).recall
        yield Row(f"first_points_random_{task}", f"expected best recall of {NUM_FIRST} random points", expected)


def _searches(conditions: Conditions, arm: str, way: str) -> Callable[[str], list[Curve]]:
    return lambda task: searches(conditions, task, arm, way)
