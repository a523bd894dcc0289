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

``regret_SAMPLER_SHARE`` is the distance of a search from the best recorded run when a share of the budget (in percent)
is spent: 0 is that run, 1 what one random trial is expected to reach. ``ablation`` has the budgets of random search and
of searches with one part more each. ``first_points`` are three runs that a portfolio of the other recorded tasks would
begin with, whatever their weight, beside published points and random ones. ``rungs`` compares the rungs of ASHA that
studies ship.
"""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
from figures import Row, measured, named, print_figures
from recorded_responses import Answers, Table
from search_conditions import RANDOM_TRIALS, WAYS, Conditions, expected, learned_of, learned_searches, parsed, searches
from search_pool import study_of
from search_regret import ablation, first_points, regret
from search_replay import Replay
from search_rungs import rungs
from search_statistics import BestByTime, PerSearch, drawn_again, finite, headline, interval, ratio

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.strategy import make_strategy
from rayvldd.records.trial import Trial


def budget_vs_random(conditions: Conditions) -> Iterator[Row]:
    """Each sampler beside random search without early stopping."""
    for task, pool in conditions.pools.items():
        theirs = expected(pool)
        yield Row(f"recorded_runs_{task}", "runs in the pool", float(len(pool.points)))
        yield Row(f"random_recall_{task}", f"recall of random search of {RANDOM_TRIALS} trials, exact", theirs.recall)
        for way, (workers, published) in WAYS.items():
            words = f"{workers} workers, {'published points first' if published else 'no published points'}"
            for sampler, label in (("curves", ""), ("tpe", "_tpe"), ("random", "_asha")):
                best = BestByTime(searches(conditions, task, sampler, way))
                name = f"budget_vs_random{label}{conditions.suffix}_{task}{way}"
                draws = [best.seconds_to(theirs.recall, drawn) for drawn in drawn_again(conditions.seeds, 0)]
                yield from interval(name, [seconds / theirs.trial_seconds for seconds in draws])
                value = finite(best.seconds_to(theirs.recall) / theirs.trial_seconds)
                yield Row(name, f"{sampler} + ASHA: its budget, {words}", value)
    if not conditions.pools:
        return
    names = {"": ("budget_vs_random", 0.25), "_none": ("budget_vs_random_none", 0.40), "_8": ("regret_8_workers", 0.35)}
    for way, (name, to_reach) in names.items():
        what = f"curves + ASHA over all {conditions.role} tasks, {WAYS[way][0]} workers"
        what += "" if WAYS[way][1] else ", no published points"
        yield from headline(f"{name}{conditions.suffix}", what, _budgets(conditions, "curves", way), to_reach)


def _budgets(conditions: Conditions, sampler: str, way: str) -> PerSearch:
    return PerSearch.budgets(conditions.tables, lambda task: searches(conditions, task, sampler, way))


def budget_vs_random_learned(conditions: Conditions) -> Iterator[Row]:
    """``curves`` that learns from the other tasks, two workers, published points."""
    if not conditions.can_learn:
        return
    for task in conditions.pools:
        weights = learned_of(conditions.role, task, "right", 0).weights_before
        yield Row(f"source_weight{conditions.suffix}_{task}", "highest weight of another task", float(weights.max()))
    ours = PerSearch.budgets(conditions.tables, partial(learned_searches, conditions, "right"))
    what = f"the same that learns from the other tasks, over all {conditions.role} tasks"
    yield from headline(f"budget_vs_random_learned{conditions.suffix}", what, ours, 0.15)


def harm(conditions: Conditions) -> Iterator[Row]:
    """What wrong sources cost."""
    if not conditions.can_learn:
        return
    without = _budgets(conditions, "curves", "")
    for kind in ("shuffled", "reversed"):
        ours = PerSearch.budgets(conditions.tables, partial(learned_searches, conditions, kind))
        what = f"the other tasks {kind} ÷ a search without them"
        yield from headline(f"harm_{kind}{conditions.suffix}", what, ours, 1.1, without)


def budget_vs_tpe_asha(conditions: Conditions) -> Iterator[Row]:
    """``curves`` beside TPE, with the same early stopping and the same points."""
    for task, pool in conditions.pools.items():
        recall = expected(pool).recall
        for way in WAYS:
            name = f"budget_vs_tpe_asha{conditions.suffix}_{task}{way}"
            ours, theirs = (BestByTime(searches(conditions, task, sampler, way)) for sampler in ("curves", "tpe"))
            draws = zip(drawn_again(conditions.seeds, 0), drawn_again(conditions.seeds, 1), strict=True)
            yield from interval(
                name, [ratio(ours.seconds_to(recall, a), theirs.seconds_to(recall, b)) for a, b in draws]
            )
            value = finite(ratio(ours.seconds_to(recall), theirs.seconds_to(recall)))
            yield Row(name, "budget of curves + ASHA ÷ that of TPE + ASHA", value)
    if conditions.pools:
        what = f"curves + ASHA ÷ TPE + ASHA over all {conditions.role} tasks, two workers"
        own, other = (_budgets(conditions, sampler, "") for sampler in ("curves", "tpe"))
        yield from headline(f"budget_vs_tpe_asha{conditions.suffix}", what, own, 0.75, other)


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


FIGURES = named(
    budget_vs_random,
    budget_vs_tpe_asha,
    budget_vs_random_learned,
    harm,
    proposal_s,
    regret,
    ablation,
    first_points,
    rungs,
)


def main() -> None:
    """Measure, print."""
    arguments = parsed(__doc__, FIGURES)
    conditions = Conditions.of(arguments)
    print_figures(measured(FIGURES, arguments.only, conditions), as_object=arguments.json)


if __name__ == "__main__":
    main()
