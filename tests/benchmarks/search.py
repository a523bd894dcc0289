"""What a search costs beside random search, and what of a study is not work on its trials.

    python tests/benchmarks/search.py                       all figures, about half an hour on two quiet cores
    python tests/benchmarks/search.py --only NAME,NAME      some of them
    python tests/benchmarks/search.py --json                one JSON object on standard output, the rest aside

The budgets are replayed in simulated time, which takes a minute. Random search draws from recorded responses at points
spread over the space (``--table``, made by ``record_responses.py``); its mean is exact. Ours is the study's own search,
its searcher and its scheduler, and meets the trials that it met when it was recorded (``--searches``, made by
``record_searches.py``); with ``--spread-only``, and where the searcher has changed since, a point answers as the
nearest run of the table that has not answered in this search. Budgets are compared by the mean over seeds: the
trial-seconds that our searches take until their mean best recall reaches the mean of random search, ÷ what that spends.
``study_overhead`` and ``trial_scaling`` run real studies on Ray, and need a quiet machine.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from figures import Row, figures_parser, measured, named, print_figures
from recorded_responses import DEFAULT_SEARCHES, DEFAULT_TABLE, Table
from scipy.stats import spearmanr
from search_replay import Curve, Expected, our_search, random_search, seconds_of_mean

RANDOM_TRIALS = (12, 48)
"""Budgets of random search beside the one that has to be met, which is the study's own number of trials."""
_BOOTSTRAPS = 200
"""Times that the seeds are drawn again."""
_LONGEST = 60
"""Whole runs in whose time a search of ours ends where none was recorded."""


@dataclass(frozen=True)
class Conditions:
    """What is replayed, and how large real studies are."""

    table: Path
    searches: Path | None
    seeds: int
    tiny: bool


def budget_vs_random(conditions: Conditions) -> Iterator[Row]:
    """Random search starts from nothing and stops nothing."""
    replay = _replayed(conditions)
    yield from _of_the_table(replay.table)
    yield from replay.of_ours()
    whole = replay.table.study.search.num_trials
    for trials in sorted({*RANDOM_TRIALS, whole}):
        theirs = random_search(replay.table, trials)
        yield from replay.rows(f"random_{trials}", f"random search of {trials} trials", theirs)
        what = f"trial-seconds to its mean recall ÷ its budget, random search of {trials} trials"
        name, to_reach = ("budget_vs_random", 1 / 3) if trials == whole else (f"budget_vs_random_{trials}", None)
        yield from replay.budgets(name, what, theirs, to_reach)


class Replay:
    """Our searches beside those of others."""

    def __init__(self, conditions: Conditions) -> None:
        self.table = Table.load(conditions.table, conditions.searches)
        study = self.table.study
        self.studies = [study.model_copy(update={"seed": seed}) for seed in range(conditions.seeds)]
        whole_run_s = float(np.mean([response.seconds_in_all for response in self.table.responses]))
        self.until = min(self.table.searched_s, _LONGEST * whole_run_s)
        found = [our_search(self.table, each, self.until) for each in self.studies]
        self.ours, self._own = [curve for curve, _ in found], [own for _, own in found]

    def of_ours(self) -> Iterator[Row]:
        """What our searches were."""
        yield Row("ours_trial_s", "trial-seconds that each of our searches goes on for", self.until)
        ended, stopped = [each.trials for each in self.ours], [each.stopped for each in self.ours]
        yield Row("ours_trials", "trials that it has ended by then", float(np.mean(ended)))
        yield Row("ours_stopped", "of these, stopped early", float(np.mean(stopped)))
        yield Row("ours_recall", "validation recall that it reaches", _mean_best(self.ours))
        what = "share of its points that a run at that very point answered"
        yield Row("ours_recorded", what, float(np.mean(self._own)))

    def rows(self, name: str, title: str, theirs: Expected) -> Iterator[Row]:
        """What both sides have reached when the same was spent, as far as ours go."""
        budget = theirs.trial_seconds
        yield Row(f"{name}_trial_s", f"trial-seconds of {title}, its exact mean", budget)
        yield Row(f"{name}_recall", "validation recall at its end, its exact mean", theirs.recall)
        for part, share in ((1, "as much"), (2, "half"), (3, "a third")):
            if budget / part <= self.until:
                recall = float(np.mean([each.at(budget / part) for each in self.ours]))
                yield Row(f"{name}_ours_{part}", f"ours when {share} was spent", recall)

    def budgets(self, name: str, what: str, theirs: Expected, to_reach: float | None) -> Iterator[Row]:
        """Trial-seconds until the mean of our searches reaches the mean of theirs ÷ what theirs spend; None: never.

        Beside it, how sure that is: the middle 95 % when our seeds are drawn again, with what was not reached as ∞.
        """
        generator, number = np.random.default_rng(0), len(self.ours)
        draws = [generator.integers(0, number, number).tolist() for _ in range(_BOOTSTRAPS)]
        again = [_ratio([self.ours[i] for i in drawn], theirs) for drawn in draws]
        numbers = [math.inf if each is None else each for each in again]
        low, high = np.quantile(numbers, [0.025, 0.975], method="nearest")
        yield Row(f"{name}_low", "its lower end when the seeds are drawn again, 95 %", _finite(low))
        yield Row(f"{name}_high", "its upper end", _finite(high))
        yield Row(name, what, _ratio(self.ours, theirs), to_reach)


@cache
def _replayed(conditions: Conditions) -> Replay:
    """Both budgets are compared with the same searches of ours."""
    return Replay(conditions)


def _ratio(ours: Sequence[Curve], theirs: Expected) -> float | None:
    found = seconds_of_mean(ours, theirs.recall)
    return None if found is None else found / theirs.trial_seconds


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean_best(curves: Sequence[Curve]) -> float:
    return float(np.mean([curve.best for curve in curves]))


def _of_the_table(table: Table) -> Iterator[Row]:
    """The replayed table, and how well a neighbour predicts a point."""
    best = [response.best for response in table.responses]
    yield Row("recorded_runs", "real distillations in the table", float(len(best)))
    yield Row("recorded_failed", "of these, given up as diverged", float(sum(bool(r.failed) for r in table.responses)))
    yield Row("recorded_recall_best", "the highest validation recall of a run", max(best))
    yield Row("recorded_recall_median", "the median of the runs' highest", float(np.median(best)))
    own, neighbours = table.error_of_neighbours()
    what = "rank correlation of a run's recall with that of its nearest neighbour"
    yield Row("neighbour_rank_correlation", what, float(spearmanr(own, neighbours).statistic))
    evaluating = sum(r.seconds_evaluating for r in table.responses) / sum(r.seconds_in_all for r in table.responses)
    yield Row("recorded_evaluating", "share of their seconds that evaluations took", evaluating)


def study_overhead(conditions: Conditions) -> Iterator[Row]:
    """Trials whose matching and evaluating are sleeps; everything else of a study is done."""
    from search_overhead import sleeping_study

    seconds, trials = (0.5, 2) if conditions.tiny else (60.0, 12)
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        found = sleeping_study(Path(folder), seconds, trials, conditions.tiny)
    what = f"wall clock of {trials} sleeping trials of {seconds:g} s, two at a time, Ray's start and end included"
    yield Row("study_s", what, found.wall)
    yield Row("study_first_report_s", "of these, from the search's start to the first report", found.first_report)
    yield Row("study_between_trials_s", "mean seconds from a trial's end to the next one's first report", found.between)
    to_reach = None if conditions.tiny else 0.05
    yield Row("study_overhead", "what is not sleep ÷ the wall clock", found.overhead, to_reach)


def trial_scaling(conditions: Conditions) -> Iterator[Row]:
    """On a quiet machine only."""
    from search_overhead import trials_an_hour

    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        one, two = (trials_an_hour(Path(folder), at_a_time, conditions.tiny) for at_a_time in (1, 2))
    yield Row("trials_an_hour", "equal trials of one thread, one at a time", one)
    yield Row("trials_an_hour_two", "the same, two at a time", two)
    yield Row("trial_scaling", "the second ÷ the first", two / one, None if conditions.tiny else 1.7, at_least=True)


FIGURES = named(budget_vs_random, study_overhead, trial_scaling)


def _arguments() -> argparse.Namespace:
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="recorded responses")
    parser.add_argument("--searches", type=Path, help="recorded searches; default: those of the default table")
    parser.add_argument("--spread-only", action="store_true", help="have our searches meet the table alone")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each kind that are replayed")
    arguments = parser.parse_args()
    if any(name.startswith("budget") for name in arguments.only) and not arguments.table.is_file():
        parser.error(f"--table {arguments.table}: no such file; allowed: what record_responses.py has written")
    if arguments.searches is None and arguments.table == DEFAULT_TABLE:
        arguments.searches = DEFAULT_SEARCHES
    if arguments.spread_only:
        arguments.searches = None
    if arguments.searches is not None and not arguments.searches.is_file():
        parser.error(f"--searches {arguments.searches}: no such file; allowed: what record_searches.py has written")
    return arguments


def main() -> None:
    """Measure, print."""
    arguments = _arguments()
    torch.set_num_threads(1)
    seeds = 2 if arguments.tiny else arguments.seeds
    conditions = Conditions(arguments.table, arguments.searches, seeds, arguments.tiny)
    print_figures(measured(FIGURES, arguments.only, conditions), as_object=arguments.json)


if __name__ == "__main__":
    main()
