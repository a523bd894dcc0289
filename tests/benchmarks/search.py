"""What a search costs beside random search and hand tuning, and what of a study is not work on its trials.

    python tests/benchmarks/search.py                       all figures, about half an hour on two quiet cores
    python tests/benchmarks/search.py --only NAME,NAME      some of them
    python tests/benchmarks/search.py --json                one JSON object on standard output, the rest aside

The budgets are replayed from recorded responses (``--table``, made by ``record_responses.py``) in simulated time, which
takes a minute: the project's own searcher and scheduler propose and stop, a point answers as the nearest recorded run
that has not answered in this search. Budgets are compared by the mean over seeds: the trial-seconds that our
searches take until their mean best recall reaches the mean of what the others have at their end, ÷ what those spend.
``study_overhead`` and ``trial_scaling`` run real studies on Ray, and want a quiet machine.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from figures import Row, as_json, figures_parser, measured, named, print_rows
from recorded_responses import DEFAULT_TABLE, Table
from scipy.stats import spearmanr
from search_replay import Curve, hand_tuning, our_search, random_search, seconds_of_mean

RANDOM_TRIALS = (12, 24, 48)
"""Budgets of random search; the first is the one that flickr8k_cpu.yaml has, the last is what has to be met."""


@dataclass(frozen=True)
class Conditions:
    """What is replayed, and how large real studies are."""

    table: Path
    seeds: int
    tiny: bool


def budget_vs_random(conditions: Conditions) -> Iterator[Row]:
    """Random search starts from nothing and stops nothing."""
    replay = Replay(conditions)
    yield from _of_the_table(replay.table)
    for trials in RANDOM_TRIALS:
        theirs = [random_search(replay.table, study, trials) for study in replay.studies]
        to_reach = 1 / 3 if trials == RANDOM_TRIALS[-1] else None
        yield from replay.rows(f"random_{trials}", f"random search of {trials} trials", theirs)
        what = f"trial-seconds to its mean recall ÷ its budget, random search of {trials} trials"
        yield Row(f"budget_vs_random_{trials}", what, replay.ratio(theirs))
    yield Row("budget_vs_random", "that of the largest", replay.ratio(theirs), to_reach)


def budget_vs_hand_tuning(conditions: Conditions) -> Iterator[Row]:
    """One setting at a time from the published point, in an order that each seed draws."""
    replay = Replay(conditions)
    theirs = [hand_tuning(replay.table, study, study.seed) for study in replay.studies]
    yield from replay.rows("by_hand", "tuning by hand", theirs)
    what = "trial-seconds to its mean recall ÷ its budget, tuning by hand"
    yield Row("budget_vs_hand_tuning", what, replay.ratio(theirs), 1 / 2)


class Replay:
    """The table, and our searches beside those of others, seed by seed."""

    def __init__(self, conditions: Conditions) -> None:
        self.table = Table.load(conditions.table)
        study = self.table.study
        self.studies = [study.model_copy(update={"seed": seed}) for seed in range(conditions.seeds)]
        self._ours: dict[int, list[Curve]] = {}

    def rows(self, name: str, title: str, theirs: Sequence[Curve]) -> Iterator[Row]:
        """What both sides have reached when the same was spent."""
        budget, ours = _mean_budget(theirs), self._beside(theirs)
        yield Row(f"{name}_trial_s", f"trial-seconds of {title}, mean of {len(theirs)} seeds", budget)
        yield Row(f"{name}_recall", "validation recall at its end", _mean_best(theirs))
        yield Row(f"{name}_ours", "ours when as much was spent", float(np.mean([each.at(budget) for each in ours])))
        third = float(np.mean([each.at(budget / 3) for each in ours]))
        yield Row(f"{name}_ours_third", "ours when a third of it was spent", third)

    def ratio(self, theirs: Sequence[Curve]) -> float | None:
        """Trial-seconds at which the mean of our searches reaches the mean of theirs ÷ what theirs spend; None: never.

        Ours stop looking at three times their budget.
        """
        found = seconds_of_mean(self._beside(theirs), _mean_best(theirs))
        return None if found is None else found / _mean_budget(theirs)

    def _beside(self, theirs: Sequence[Curve]) -> list[Curve]:
        """Our searches for as many trials."""
        trials = theirs[0].trials
        if trials not in self._ours:
            until = 3 * _mean_budget(theirs)
            self._ours[trials] = [our_search(self.table, study, trials, until) for study in self.studies]
        return self._ours[trials]


def _mean_best(curves: Sequence[Curve]) -> float:
    return float(np.mean([curve.best for curve in curves]))


def _mean_budget(curves: Sequence[Curve]) -> float:
    return float(np.mean([curve.trial_seconds for curve in curves]))


def _of_the_table(table: Table) -> Iterator[Row]:
    """What is replayed, and how much a neighbour says of a point."""
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


FIGURES = named(budget_vs_random, budget_vs_hand_tuning, study_overhead, trial_scaling)


def _arguments() -> argparse.Namespace:
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="recorded responses")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each kind that are replayed")
    arguments = parser.parse_args()
    if any(name.startswith("budget") for name in arguments.only) and not arguments.table.is_file():
        parser.error(f"--table {arguments.table}: no such file; allowed: what record_responses.py has written")
    return arguments


def main() -> None:
    """Measure, print."""
    arguments = _arguments()
    torch.set_num_threads(1)
    conditions = Conditions(arguments.table, 2 if arguments.tiny else arguments.seeds, arguments.tiny)
    rows = print_rows(measured(FIGURES, arguments.only, conditions), sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(as_json(rows, "cpu"))


if __name__ == "__main__":
    main()
