"""Trials of the ledger in Optuna's own types, for its samplers and for what it can say about a search afterwards."""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection

from rayvldd.config.domains import ChoiceDomain, Domain, DrawnDomain, FixedDomain, FloatDomain, Scalar
from rayvldd.config.metrics import OBJECTIVES
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.objectives import values_of_trial
from rayvldd.records.trial import Trial

FEWEST_TRIALS = 20
"""Fewest trials with a recall for importances: with eight, two runs of one study named different settings."""


def directions_of(study: Study) -> list[StudyDirection]:
    """Which way each objective of a study is better."""
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    return [up if OBJECTIVES[name].rises else down for name in study.search.objectives]


def distribution_of(domain: DrawnDomain) -> BaseDistribution:
    """The Optuna distribution that draws from exactly the same values."""
    if isinstance(domain, ChoiceDomain):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, FloatDomain):
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def importance_of_settings(trials: Sequence[Trial], space: Mapping[str, Domain], seed: int = 0) -> dict[str, float]:
    """Share of the variance of validation recall that each setting that all points have explains, largest first.

    Functional ANOVA (Hutter et al., ICML 2014) as Optuna has it, over trials that did not fail; a stopped trial counts
    with its best recall. Empty where fewer than 20 trials have a recall, or all have the same.
    """
    shared = Space(space, {}).unconditional
    known = [trial for trial in trials if trial.is_candidate and trial.state != "running"]
    known = [trial for trial in known if shared.keys() <= trial.point.keys() <= space.keys()]
    recalls = [trial.best.recall for trial in known if trial.best]
    if not shared or len(known) < FEWEST_TRIALS or len(set(recalls)) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    history = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
    for trial, recall in zip(known, recalls, strict=True):
        history.add_trial(_with_values({key: trial.point[key] for key in shared}, shared, [recall]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        return optuna.importance.get_param_importances(history, evaluator=evaluator)


def as_optuna_trial(trial: Trial, study: Study) -> optuna.trial.FrozenTrial:
    """An ended trial as Optuna sees it: a stopped one counts with its best set, a failed one ranks below all."""
    drawn = study.space.drawn
    point = {key: value for key, value in trial.point.items() if key in drawn}
    return _with_values(point, drawn, told_values(trial, study), intermediate_values(trial, study))


def told_values(trial: Trial, study: Study) -> list[float] | None:
    """What Optuna is told that a trial is worth, by objective; None for one that failed or has no evaluation."""
    values = values_of_trial(trial, study)
    return list(values.values()) if values and all(map(math.isfinite, values.values())) else None


def intermediate_values(trial: Trial, study: Study) -> dict[int, float]:
    """The best validation recall so far by outer step.

    None with several objectives, which Optuna does not allow; and none of a failed trial, which TPE would rank by its
    last one instead of below all others.
    """
    if len(study.search.objectives) > 1 or trial.state == "failed":
        return {}
    best = itertools.accumulate((evaluation.recall for evaluation in trial.evaluations), max)
    return {evaluation.outer_step: recall for evaluation, recall in zip(trial.evaluations, best, strict=True)}


def _with_values(
    point: Mapping[str, Scalar],
    space: Mapping[str, DrawnDomain],
    values: Sequence[float] | None,
    intermediate: Mapping[int, float] | None = None,
) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.PRUNED,
        values=values,
        params=typed_point(point, space),
        distributions={key: distribution_of(space[key]) for key in point},
        intermediate_values=dict(intermediate or {}),
    )


def typed_point(point: Mapping[str, Scalar], space: Mapping[str, Domain]) -> dict[str, Scalar]:
    """The values in the types of their domains: YAML's ``1`` is an int also where a float is searched."""
    return {key: _typed_value(space[key], value) for key, value in point.items()}


def _typed_value(domain: Domain, value: Scalar) -> Scalar:
    if isinstance(domain, FixedDomain):
        return domain.value
    if isinstance(domain, ChoiceDomain):
        return domain.values[_index(domain.values, value)]
    return float(value) if isinstance(domain, FloatDomain) else int(value)


def _index(values: Sequence[Scalar], value: Scalar) -> int:
    """Position of a value, of its own type if there is one: True equals 1."""
    same = [number for number, known in enumerate(values) if known == value and type(known) is type(value)]
    return same[0] if same else values.index(value)
