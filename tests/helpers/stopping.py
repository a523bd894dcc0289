"""Evaluations of concurrent trials, and the decisions of a strategy about them."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from helpers.searches import evaluated
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.strategy import Decision, make_strategy
from rayvldd.records.trial import Evaluation, Trial, trial_id_of


def results_of(study: Study, trials: int, steps: int) -> list[tuple[int, Evaluation]]:
    """Results of concurrent trials in order of arrival, with increasing seconds."""
    generator = np.random.default_rng(3)
    rows: list[tuple[int, Evaluation]] = []
    quality = generator.uniform(5, 20, size=trials)
    for step in range(0, steps + 1, study.distillation.evaluate_every):
        for number in range(trials):
            rows.append((number, evaluated(step, float(quality[number] * (1 - np.exp(-step / 8))), float(len(rows)))))
    return rows


def trial_of(number: int, evaluations: Sequence[Evaluation] = ()) -> Trial:
    """The record of a running trial."""
    return Trial(trial_id_of(number), number, 1, {}, Path(), evaluations=list(evaluations))


def decisions(
    study: Study, rows: Sequence[tuple[int, Evaluation]], known: Collection[Trial] = ()
) -> list[tuple[int, int]]:
    """Record evaluations and return (trial, step) of every stop; stopped trials give no more evaluations."""
    trials = {trial.number: trial for trial in known}
    strategy, stops = make_strategy(study, trials.values()), list[tuple[int, int]]()
    for number, result in rows:
        trial = trials.setdefault(number, trial_of(number))
        if number in dict(stops):
            continue
        if result.outer_step > trial.outer_step:
            trial.evaluations.append(result)
        if strategy.decide(trial, trials.values()) is Decision.STOP:
            stops.append((number, result.outer_step))
    return stops
