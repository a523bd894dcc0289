"""Our samplers beside those of SMAC and syne-tune, over the recorded tasks.

    pip install '.[rivals]'
    python tests/benchmarks/search_rivals.py                    the development tasks
    python tests/benchmarks/search_rivals.py --task NAME        one of them
    python tests/benchmarks/search_rivals.py --samplers smac,curves
    python tests/benchmarks/search_rivals.py --json             one JSON object on standard output, the rest aside

The samplers are used as they are, and propose any point of the space. The nearest recorded run that has not answered
yet answers, for all of them; ``search_curves.py`` has the figures of samplers that rank the recorded runs themselves.
All searches have two workers, stop trials by the study's ASHA, and begin with the study's published points, or with
none of them (``_none``).

The budget of one search is the trial-seconds until its best recall reaches the exact mean of random search of 24 whole
trials, divided by what that spends. A figure is the interquartile mean of these over tasks and seeds; its interval is
the middle 95 % when the seeds of each task are drawn again. It has no value where more than a quarter of the searches
end before. ``proposal_s`` is the mean CPU time of a proposal.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast, get_args

import numpy as np
from figures import Row, figures_parser, measured, named, print_figures
from recorded_responses import Answers, Table
from search_conditions import RANDOM_TRIALS
from search_replay import Curve, Replay, random_search
from search_statistics import PerSearch, headline
from search_tasks import Role, recorded_tasks, tables_of

from rayvldd.config.domains import SettingValue
from rayvldd.config.search_plugins import SAMPLERS
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.strategy import SampledSearch, Sampler, SamplerFactory, make_stopping_rule
from rayvldd.records.trial import Trial

_UNTIL, _UNTIL_TINY = 0.8, 0.05
"""Searches end when this share of the random search's budget is spent."""
_WAYS = {"": True, "_none": False}
"""Whether the published points are tried first, by the end of a figure's name."""
OURS = {name: (name, "asha") for name in ("curves", "tpe", "gp", "random")} | {"hyperband": ("random", "hyperband")}
"""Sampler and scheduler of our own searches, by name."""
OTHERS = ("smac", "bohb", "bore", "cqr")
"""Samplers of other tools, with our ASHA; those of ``rival_samplers.py``."""


class Timed:
    """A sampler with the CPU seconds of its proposals.

    Args:
        sampler: The sampler.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.seconds: list[float] = []

    def propose(
        self, trial_id: str, given: dict[str, SettingValue], history: Collection[Trial]
    ) -> dict[str, SettingValue]:
        """The proposal of the sampler."""
        began = time.process_time()
        point = self._sampler.propose(trial_id, given, history)
        if not given:
            self.seconds.append(time.process_time() - began)
        return point

    def repeated(self, trial_id: str, earlier: Trial | None) -> None:
        """Told on."""
        self._sampler.repeated(trial_id, earlier)


@dataclass(frozen=True)
class Search:
    """One search and what its proposals took."""

    curve: Curve
    proposal_s: list[float]


@dataclass(frozen=True)
class Conditions:
    """What is replayed."""

    role: Role
    task: str | None
    """None: all recorded tasks of the role."""
    samplers: tuple[str, ...]
    seeds: int
    until: float
    """Share of the random search's budget."""

    @property
    def tables(self) -> dict[str, Table]:
        """The first table of each task, as in ``search_curves.py``."""
        return {name: _table(self.role, name) for name in _names(self.role) if self.task in (None, name)}

    @property
    def suffix(self) -> str:
        """Development figures are named so."""
        return "_dev" if self.role == "development" else ""


def _names(role: Role) -> list[str]:
    """The recorded tasks of a role."""
    return [task.name for task in recorded_tasks(role)]


@cache
def _table(role: Role, name: str) -> Table:
    """Loaded once, so that a look at a test task is counted once."""
    return tables_of(next(task for task in recorded_tasks(role) if task.name == name))[0]


def _sampler(name: str, study: Study, folder: Path) -> Sampler:
    if name in OURS:
        return cast(SamplerFactory, SAMPLERS[study.search.sampler].factory())(study, [], [])
    from rival_samplers import rivals  # of the extra, which the others do not need

    return rivals(folder)[name](study)


def search(table: Table, name: str, seed: int, published: bool, trial_seconds: float) -> Search:
    """One search over a table.

    Args:
        table: The recorded runs.
        name: One of :data:`OURS` or :data:`OTHERS`.
        seed: Seed of the search.
        published: Whether it begins with the published points of the study.
        trial_seconds: When it ends.
    """
    sampler, scheduler = OURS.get(name, ("random", "asha"))
    settings = {"max_concurrent": 2, "sampler": sampler, "scheduler": scheduler}
    settings |= {} if published else {"initial_points": ()}
    study = table.study.model_copy(update={"seed": seed, "search": table.study.search.model_copy(update=settings)})
    with tempfile.TemporaryDirectory() as folder:
        timed = Timed(_sampler(name, study, Path(folder)))
        strategy = SampledSearch(study, timed, make_stopping_rule(study), [])
        return Search(Replay(Answers(table), study, strategy).run(trial_seconds), timed.seconds)


@cache
def _searches(conditions: Conditions, task: str, name: str, way: str) -> list[Search]:
    table = conditions.tables[task]
    until = conditions.until * random_search(table, RANDOM_TRIALS).trial_seconds
    return [search(table, name, seed, _WAYS[way], until) for seed in range(conditions.seeds)]


def _budgets(conditions: Conditions, name: str, way: str) -> PerSearch:
    return PerSearch.budgets(
        conditions.tables, lambda task: [one.curve for one in _searches(conditions, task, name, way)]
    )


def budget_vs_random(conditions: Conditions) -> Iterator[Row]:
    """Each sampler beside random search without early stopping."""
    for way, published in _WAYS.items():
        for name in conditions.samplers:
            budgets = _budgets(conditions, name, way)
            what = f"{name}, {'published points first' if published else 'no published points'}"
            yield from headline(f"nearest_{name}{conditions.suffix}{way}", what, budgets)
            unreached = sum(int(np.isinf(one).sum()) for one in budgets.by_task)
            what = f"of {sum(map(len, budgets.by_task))} searches that do not reach it"
            yield Row(f"unreached_{name}{conditions.suffix}{way}", what, float(unreached))


def proposal_s(conditions: Conditions) -> Iterator[Row]:
    """Mean CPU seconds of a proposal, start trials included."""
    for name in conditions.samplers:
        searches = (one for task in conditions.tables for one in _searches(conditions, task, name, "_none"))
        seconds = [each for one in searches for each in one.proposal_s]
        yield Row(f"proposal_s_{name}", "CPU seconds of a proposal, mean", float(np.mean(seconds)))


FIGURES: Mapping[str, Callable[[Conditions], Iterator[Row]]] = named(budget_vs_random, proposal_s)


def _arguments() -> argparse.Namespace:
    parser = figures_parser(__doc__, FIGURES)
    known = [*OURS, *OTHERS]

    def chosen(text: str) -> tuple[str, ...]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"no sampler is called {sorted(unknown)}; there are {', '.join(known)}")
        return tuple(text.split(","))

    parser.add_argument(
        "--samplers", type=chosen, default=tuple(known), help="names, with commas between; default: all"
    )
    parser.add_argument("--role", choices=get_args(Role), default="development", help="which tasks are replayed")
    parser.add_argument("--task", help="one of the recorded tasks of the role; default: all")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each kind")
    arguments = parser.parse_args()
    if not [name for name in _names(arguments.role) if arguments.task in (None, name)]:
        parser.error(
            f"--role {arguments.role}: no such task is recorded\nNext: python tests/benchmarks/search_tasks.py"
        )
    return arguments


def main() -> None:
    """Measure, print."""
    given = _arguments()
    seeds, until = (2, _UNTIL_TINY) if given.tiny else (given.seeds, _UNTIL)
    conditions = Conditions(given.role, given.task, given.samplers, seeds, until)
    print_figures(measured(FIGURES, given.only, conditions), as_object=given.json)


if __name__ == "__main__":
    main()
