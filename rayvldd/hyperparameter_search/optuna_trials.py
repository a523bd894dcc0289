"""Conversion of trials to Optuna's types, for its samplers and its importance evaluators."""

import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection

from rayvldd.config.domains import (
    ChoiceDomain,
    Domain,
    DrawnDomain,
    FixedDomain,
    FloatDomain,
    Plain,
    SettingValue,
    as_number,
)
from rayvldd.config.metrics import OBJECTIVES
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.objectives import values_of_trial
from rayvldd.records.trial import Trial

OptunaValue = Plain | None
"""A value of a categorical setting in Optuna."""

FAILED = "failed"
"""User attribute of trials that diverged: their state is that of others that have no value."""

FEWEST_TRIALS = 20
"""Minimum number of trials for importances: with eight, two runs of one study named different settings."""


def directions_of(study: Study) -> list[StudyDirection]:
    """Optimisation direction of each objective of a study."""
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    return [up if OBJECTIVES[name].rises else down for name in study.search.objectives]


def distribution_of(domain: DrawnDomain) -> BaseDistribution:
    """The Optuna distribution with exactly the same values."""
    if isinstance(domain, ChoiceDomain):
        return CategoricalDistribution(optuna_choices(domain))
    if isinstance(domain, FloatDomain):
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def optuna_choices(domain: ChoiceDomain) -> list[OptunaValue]:
    """The values of a choice for Optuna, in the same order."""
    return [optuna_value(value) for value in domain.values]


def optuna_value(value: SettingValue) -> OptunaValue:
    """A value as Optuna stores it: a list as JSON text, since its storages take plain values only."""
    return json.dumps(value) if isinstance(value, tuple) else value


GOOD_SHARE = 0.2
"""Fraction of the trials that count as good ones for :func:`importance_among_good`."""


def importance_of_settings(trials: Sequence[Trial], space: Mapping[str, Domain], seed: int = 0) -> dict[str, float]:
    """Fraction of the variance of validation recall that each unconditional setting explains, largest first.

    Optuna's functional ANOVA (Hutter et al., ICML 2014), over trials that did not fail; a stopped trial counts with its
    best recall. Empty if fewer than 20 trials have a recall, or if all recalls are equal.
    """
    return _importances(trials, space, partial(optuna.importance.FanovaImportanceEvaluator, seed=seed))


def importance_among_good(trials: Sequence[Trial], space: Mapping[str, Domain]) -> dict[str, float]:
    """Share of each unconditional setting in what makes a trial one of the best fifth, largest first.

    Optuna's PED-ANOVA (Watanabe et al., IJCAI 2023), over the trials of :func:`importance_of_settings`. A setting that
    only separates bad trials from all others explains much of the variance, and little here.
    """
    make_evaluator = partial(optuna.importance.PedAnovaImportanceEvaluator, target_quantile=GOOD_SHARE)
    return _importances(trials, space, make_evaluator)


def _importances(
    trials: Sequence[Trial],
    space: Mapping[str, Domain],
    make_evaluator: Callable[[], "optuna.importance.BaseImportanceEvaluator"],  # in quotes: it loads scikit-learn
) -> dict[str, float]:
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
        return optuna.importance.get_param_importances(history, evaluator=make_evaluator())


def as_optuna_trial(
    trial: Trial, study: Study, values: Sequence[float] | None, *, raw: bool = False
) -> optuna.trial.FrozenTrial:
    """Convert an ended trial; without values it is pruned.

    Args:
        trial: An ended trial.
        study: Search space and objectives.
        values: Its values by objective.
        raw: Whether the intermediate values are the recalls of each evaluation, not the best so far.
    """
    drawn = study.space.drawn
    point = {key: value for key, value in trial.point.items() if key in drawn}
    found = _with_values(point, drawn, values, intermediate_values(trial, study, raw=raw))
    if trial.state == "failed":
        found.set_user_attr(FAILED, True)
    return found


def optuna_values(trial: Trial, study: Study) -> list[float] | None:
    """Values of a trial by objective for Optuna; None if it failed or has no evaluation."""
    values = values_of_trial(trial, study)
    return list(values.values()) if values and all(map(math.isfinite, values.values())) else None


def intermediate_values(trial: Trial, study: Study, *, raw: bool = False) -> dict[int, float]:
    """Recalls by outer step: the best so far, or ``raw``; none with several objectives, as Optuna requires."""
    if len(study.search.objectives) > 1:
        return {}
    if raw:
        return {evaluation.outer_step: evaluation.recall for evaluation in trial.evaluations}
    best = itertools.accumulate((evaluation.recall for evaluation in trial.evaluations), max)
    return {evaluation.outer_step: recall for evaluation, recall in zip(trial.evaluations, best, strict=True)}


def _with_values(
    point: Mapping[str, SettingValue],
    space: Mapping[str, DrawnDomain],
    values: Sequence[float] | None,
    intermediate: Mapping[int, float] | None = None,
) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.PRUNED,
        values=values,
        params={key: optuna_value(value) for key, value in typed_point(point, space).items()},
        distributions={key: distribution_of(space[key]) for key in point},
        intermediate_values=dict(intermediate or {}),
    )


def typed_point(point: Mapping[str, SettingValue], space: Mapping[str, Domain]) -> dict[str, SettingValue]:
    """Convert the values to the types of their domains: YAML's ``1`` is an int even in a float domain."""
    return {key: _typed_value(space[key], value) for key, value in point.items()}


def _typed_value(domain: Domain, value: SettingValue) -> SettingValue:
    if isinstance(domain, FixedDomain):
        return domain.value
    if isinstance(domain, ChoiceDomain):
        return domain.values[_index(domain.values, value)]
    return float(as_number(value)) if isinstance(domain, FloatDomain) else int(as_number(value))


def _index(values: Sequence[SettingValue], value: SettingValue) -> int:
    """Index of a value; an equal value of the same type is preferred, because True equals 1. JSON has lists only."""
    value = tuple(value) if isinstance(value, list) else value
    same = [number for number, known in enumerate(values) if known == value and type(known) is type(value)]
    return same[0] if same else values.index(value)
