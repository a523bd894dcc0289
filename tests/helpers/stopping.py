"""Evaluations of trials side by side, and what a strategy decides about them."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from rayvldd.config.study import Study
from rayvldd.search.ledger import METRIC, OUTER_STEP, Trial, trial_id_of
from rayvldd.search.strategy import Decision, make_strategy

Row = dict[str, float]


def row(step: int, value: float, seconds: float = 1.0) -> Row:
    """An evaluation whose recall is the best so far."""
    return {OUTER_STEP: step, "val_mean_recall": value, METRIC: value, "search_seconds": seconds}


def results_of(study: Study, trials: int, steps: int) -> list[tuple[int, Row]]:
    """Results of trials side by side, in the order in which they come in; seconds count up."""
    generator = np.random.default_rng(3)
    rows: list[tuple[int, Row]] = []
    quality = generator.uniform(5, 20, size=trials)
    for step in range(0, steps + 1, study.distillation.evaluate_every):
        for number in range(trials):
            rows.append((number, row(step, float(quality[number] * (1 - np.exp(-step / 8))), float(len(rows)))))
    return rows


def trial_of(number: int, rows: Sequence[Row] = ()) -> Trial:
    """The record of a running trial."""
    return Trial(trial_id_of(number), number, 1, {}, Path(), evaluations=list(rows))


def decisions(study: Study, rows: Sequence[tuple[int, Row]], known: Collection[Trial] = ()) -> list[tuple[int, float]]:
    """Enter evaluations and return (trial, step) of every stop; stopped trials give no more evaluations."""
    trials = {trial.number: trial for trial in known}
    strategy, stops = make_strategy(study, trials.values()), list[tuple[int, float]]()
    for number, result in rows:
        trial = trials.setdefault(number, trial_of(number))
        if number in dict(stops):
            continue
        if result[OUTER_STEP] > trial.outer_step:
            trial.evaluations.append(result)
        if strategy.decide(trial, trials.values()) is Decision.STOP:
            stops.append((number, result[OUTER_STEP]))
    return stops
