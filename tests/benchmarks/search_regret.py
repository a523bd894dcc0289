"""How good the best recall of a search is at any time, and what each part of the search adds."""

from collections.abc import Callable, Iterator
from functools import partial

from figures import Row
from search_conditions import ARMS, WAYS, Conditions, learned_searches, searches
from search_replay import Curve
from search_statistics import PerSearch, headline

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


def _searches(conditions: Conditions, arm: str, way: str) -> Callable[[str], list[Curve]]:
    return lambda task: searches(conditions, task, arm, way)
