"""Trials of the ledger in Optuna's own types, for its samplers and for what it can say about a search afterwards."""

import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rayvldd.config.domains import ChoiceDomain, Domain, FloatDomain, Scalar
from rayvldd.search.ledger import Trial

FEWEST_TRIALS = 4
"""Trials with a recall below which importances would be read out of nothing."""


def distribution_of(domain: Domain) -> BaseDistribution:
    """The Optuna distribution that draws from exactly the same values."""
    if isinstance(domain, ChoiceDomain):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, FloatDomain):
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def importance_of_settings(trials: Sequence[Trial], space: Mapping[str, Domain], seed: int = 0) -> dict[str, float]:
    """Share of the variance of validation recall that each searched setting explains, largest first.

    Functional ANOVA (Hutter et al., ICML 2014) as Optuna has it, over trials that did not fail; a stopped trial counts
    with its best recall. Empty where fewer than four trials have a recall, or all have the same.
    """
    known = [trial for trial in trials if trial.state not in ("failed", "running") and trial.best]
    known = [trial for trial in known if trial.point.keys() == space.keys()]
    if len(known) < FEWEST_TRIALS or len({trial.best["val_mean_recall"] for trial in known if trial.best}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
    study.add_trials([as_optuna_trial(trial, space) for trial in known])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def as_optuna_trial(trial: Trial, space: Mapping[str, Domain]) -> optuna.trial.FrozenTrial:
    """A trial of ours as Optuna sees it: a stopped one counts with its best recall, a failed one ranks below all."""
    best = trial.best if trial.state != "failed" else None
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if best else optuna.trial.TrialState.PRUNED,
        value=best["val_mean_recall"] if best else None,
        params=typed_point(trial.point, space),
        distributions={key: distribution_of(space[key]) for key in trial.point},
    )


def typed_point(point: Mapping[str, Scalar], space: Mapping[str, Domain]) -> dict[str, Scalar]:
    """The values in the types of their domains: YAML's ``1`` is an int also where a float is searched."""
    return {key: _typed_value(space[key], value) for key, value in point.items()}


def _typed_value(domain: Domain, value: Scalar) -> Scalar:
    if isinstance(domain, ChoiceDomain):
        return domain.values[_index(domain.values, value)]
    return float(value) if isinstance(domain, FloatDomain) else int(value)


def _index(values: Sequence[Scalar], value: Scalar) -> int:
    """Position of a value, of its own type if there is one: True equals 1."""
    same = [number for number, known in enumerate(values) if known == value and type(known) is type(value)]
    return same[0] if same else values.index(value)
