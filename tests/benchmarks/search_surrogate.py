"""Searches in a model of the recorded tasks, where every point has an answer of its own.

    python tests/benchmarks/search_surrogate.py                 the development tasks
    python tests/benchmarks/search_surrogate.py --role test     the test tasks; each look is counted
    python tests/benchmarks/search_surrogate.py --task NAME     one task
    python tests/benchmarks/search_surrogate.py --only calibration
    python tests/benchmarks/search_surrogate.py --json          one JSON object on standard output, the rest aside

Each half of a task's runs has a model (``surrogate_model.py``), and ``calibration`` compares its predictions with the
runs of the other half: the share of recalls in its central intervals, rank correlations, and the error of its
probability of failure (Brier score) divided by that of the mean share of failures.

``budget`` replays the samplers as users have them, with ASHA and two workers. Each seed has a world of its own, of the
one or the other half, which is the same for all samplers. The budget of one search is the trial-seconds until its best
recall reaches what random search of 24 whole trials is expected to reach in this world, divided by what that spends.
A figure is the interquartile mean over tasks and seeds, its interval the middle 95 % when the seeds of each task are
drawn again. ``_none`` is without published points.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from figures import Row, measured, named, print_figures
from recorded_responses import Response
from scipy.stats import spearmanr
from search_conditions import RANDOM_TRIALS, UNTIL, Conditions, parsed
from search_replay import Replay, expected_of
from search_statistics import PerSearch, headline
from surrogate_model import Surrogate, World

SAMPLERS = ("curves", "tpe", "random")
_WORLDS, _WORLDS_TINY = 12, 3
"""Worlds that a prediction is made of."""
_DRAWS = 16
"""Trials in each."""
_RANDOM_POINTS = 480
"""Trials from which the expected result of random search is computed, in each world."""
_INTERVALS = (50, 80, 95)


@dataclass(frozen=True)
class Predictions:
    """What models predict for runs that they were not fitted to, and what these reached."""

    recalls: np.ndarray
    """Runs that did not fail × evaluations."""
    drawn: np.ndarray
    """Draws × runs that did not fail × evaluations."""
    log_seconds: np.ndarray
    drawn_log_seconds: np.ndarray
    failed: np.ndarray
    """Of all runs."""
    probabilities: np.ndarray
    """Of a failure, of all runs."""

    @classmethod
    def of(cls, model: Surrogate, held_out: Sequence[Response], worlds: int) -> "Predictions":
        """Those of one model."""
        at, generator = model.inputs([run.point for run in held_out]), np.random.default_rng(0)
        failed = np.array([bool(run.failed) for run in held_out])
        whole, (of_recalls, of_seconds) = at[~failed], model.residuals
        drawn, drawn_seconds, fails = [], [], []
        for seed in range(worlds):
            forests = World(model, seed).forests
            fails.append(forests.fails.predict(at))
            recalls, seconds = forests.recalls.predict(whole), forests.log_seconds.predict(whole)
            for _ in range(_DRAWS):
                rows, others = generator.integers(0, len(of_recalls), (2, len(whole)))
                drawn.append(np.maximum(recalls + of_recalls[rows], 0))
                drawn_seconds.append(seconds + of_seconds[others])
        runs = [run for run in held_out if not run.failed]
        return cls(
            np.array([run.val_mean_recalls for run in runs]),
            np.array(drawn),
            np.log([run.seconds_in_all for run in runs]),
            np.array(drawn_seconds),
            failed,
            np.mean(fails, 0),
        )

    def and_of(self, other: "Predictions") -> "Predictions":
        """Those of both halves."""
        return Predictions(
            np.concatenate([self.recalls, other.recalls]),
            np.concatenate([self.drawn, other.drawn], 1),
            np.concatenate([self.log_seconds, other.log_seconds]),
            np.concatenate([self.drawn_log_seconds, other.drawn_log_seconds], 1),
            np.concatenate([self.failed, other.failed]),
            np.concatenate([self.probabilities, other.probabilities]),
        )


def coverage(drawn: np.ndarray, values: np.ndarray, percent: int) -> float:
    """Share of values inside the central interval of their draws, which are the first axis."""
    outside = (1 - percent / 100) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside], axis=0)
    return float(((low <= values) & (values <= high)).mean())


def calibration(conditions: Conditions) -> Iterator[Row]:
    """Predictions for the runs of the other half."""
    for task, pool in conditions.pools.items():
        models, runs = _models(conditions, task), pool.table.responses
        worlds = _WORLDS_TINY if conditions.tiny else _WORLDS
        one, other = (
            Predictions.of(models[half], [runs[row] for row in _half(len(runs), 1 - half)], worlds) for half in (0, 1)
        )
        yield from _calibration_of(task, one.and_of(other))


def _calibration_of(task: str, both: Predictions) -> Iterator[Row]:
    yield Row(f"held_out_runs_{task}", "runs that did not fail, each predicted from the other half", len(both.recalls))
    for percent in _INTERVALS:
        last = coverage(both.drawn[..., -1], both.recalls[:, -1], percent)
        yield Row(f"coverage_{percent}_last_{task}", f"share of last recalls in the interval of {percent} %", last)
        every = coverage(both.drawn[..., 1:], both.recalls[:, 1:], percent)
        yield Row(f"coverage_{percent}_{task}", "the same of all recalls after step 0", every)
        seconds = coverage(both.drawn_log_seconds, both.log_seconds, percent)
        yield Row(f"coverage_{percent}_seconds_{task}", "the same of the seconds of a run", seconds)
    means = both.drawn.mean(0)
    middle = means.shape[1] // 2
    for name, index in (("last", means.shape[1] - 1), ("middle", middle)):
        found = _rank_correlation(means[:, index], both.recalls[:, index])
        yield Row(f"rank_correlation_{name}_{task}", f"of predicted and recorded recall, {name} evaluation", found)
    seconds = _rank_correlation(both.drawn_log_seconds.mean(0), both.log_seconds)
    yield Row(f"rank_correlation_seconds_{task}", "of predicted and recorded seconds", seconds)
    yield Row(f"failures_{task}", "share of runs that failed", float(both.failed.mean()))
    yield Row(f"predicted_failures_{task}", "mean predicted probability of it", float(both.probabilities.mean()))
    score = float(np.square(both.probabilities - both.failed).mean() / both.failed.var())
    yield Row(f"brier_{task}", "Brier score of it ÷ that of the mean share; below 1: better", score)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(one, other).statistic)


def _half(runs: int, which: int) -> list[int]:
    """Indexes of the runs of a half; neighbours in the Sobol sequence lie in different halves of the space."""
    order = np.random.default_rng(0).permutation(runs)
    return sorted(order[which::2].tolist())


@cache
def _models(conditions: Conditions, task: str) -> list[Surrogate]:
    table = conditions.tables[task]
    return [Surrogate(table, _half(len(table.responses), which)) for which in (0, 1)]


@cache
def _world(conditions: Conditions, task: str, seed: int) -> World:
    return World(_models(conditions, task)[seed % 2], seed)


@cache
def _budget(conditions: Conditions, task: str, sampler: str, published: bool, seed: int) -> float:
    """Of one search; infinite where it does not reach the recall."""
    world, study = _world(conditions, task, seed), conditions.tables[task].study
    theirs = expected_of(world.at_random(_RANDOM_POINTS), RANDOM_TRIALS)
    settings = {"max_concurrent": 2, "sampler": sampler, "scheduler": "asha"}
    settings |= {} if published else {"initial_points": ()}
    study = study.model_copy(update={"seed": seed, "search": study.search.model_copy(update=settings)})
    until = (0.1 if conditions.tiny else UNTIL) * theirs.trial_seconds
    curve = Replay(world, study).run(until, enough=theirs.recall)
    spent = next((spent for spent, recall in curve.points if recall >= theirs.recall), math.inf)
    return spent / theirs.trial_seconds


def budget(conditions: Conditions) -> Iterator[Row]:
    """Each sampler beside random search without early stopping."""
    for published in (True, False):
        way = conditions.suffix + ("" if published else "_none")
        found = {sampler: _budgets(conditions, sampler, published) for sampler in SAMPLERS}
        for sampler, budgets in found.items():
            what = f"{sampler} + ASHA, {'published points first' if published else 'no published points'}"
            yield from headline(f"surrogate_{sampler}{way}", what, budgets)
            for task, one in zip(conditions.pools, budgets.by_task, strict=True):
                yield from headline(f"surrogate_{sampler}{way}_{task}", f"the same of {task}", PerSearch([one]))
            unreached = sum(int(np.isinf(one).sum()) for one in budgets.by_task)
            of = sum(map(len, budgets.by_task))
            yield Row(f"unreached_{sampler}{way}", f"of {of} searches that do not reach it", float(unreached))
        for other in SAMPLERS[1:]:
            what = f"share of worlds in which curves is sooner than {other}; ties: half"
            yield Row(f"curves_before_{other}{way}", what, _share_sooner(found["curves"], found[other]))


def _share_sooner(ours: PerSearch, theirs: PerSearch) -> float:
    """Of pairs of searches in the same world; searches that do not reach the recall are equal."""
    one, other = np.concatenate(ours.by_task), np.concatenate(theirs.by_task)
    return float(np.where(one == other, 0.5, one < other).mean())


def _budgets(conditions: Conditions, sampler: str, published: bool) -> PerSearch:
    return PerSearch(
        [
            np.array([_budget(conditions, task, sampler, published, seed) for seed in range(conditions.seeds)])
            for task in conditions.pools
        ]
    )


FIGURES = named(calibration, budget)


def main() -> None:
    """Measure, print."""
    arguments = parsed(__doc__, FIGURES)
    conditions = Conditions.of(arguments)
    print_figures(measured(FIGURES, arguments.only, conditions), as_object=arguments.json)


if __name__ == "__main__":
    main()
