"""Marginals of functional ANOVA: expected recall by value of one setting, averaged over the other settings.

Hutter et al., An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014: a random forest is fitted to
the recalls of the trials, and its prediction is averaged over all values of the other settings. Deviation: the average
is over random samples, because scikit-learn's forest does not provide the closed form over its leaves.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rayvldd.config.domains import ChoiceDomain, DrawnDomain, IntDomain, SettingValue, as_number
from rayvldd.records.trial import Trial

FEWEST_TRIALS = 8
"""Minimum number of trials for a meaningful forest."""

_TREES, _DRAWS, _VALUES = 64, 256, 21
"""Number of trees, as in Optuna's functional ANOVA; samples of the other settings; values of a setting in a curve."""

Curve = tuple[list[SettingValue], list[float]]
"""Values of a setting, and the expected recall at each, in percent."""


def expected_recalls(trials: Sequence[Trial], space: Mapping[str, DrawnDomain], seed: int = 0) -> dict[str, Curve]:
    """The marginal of each setting of ``space``; empty if fewer than eight successful trials have all settings."""
    known = [trial for trial in trials if trial.is_candidate and space.keys() <= trial.point.keys()]
    if not space or len(known) < FEWEST_TRIALS:
        return {}
    from sklearn.ensemble import (
        RandomForestRegressor,
    )  # importing takes a second, which is not needed for the curves of a sweep

    features = np.array([[height_in(space[key], trial.point[key]) for key in space] for trial in known])
    forest = RandomForestRegressor(_TREES, random_state=seed).fit(features, [trial.value() for trial in known])
    others = np.random.default_rng(seed).random((_DRAWS, len(space)))
    curves: dict[str, Curve] = {}
    for place, (key, domain) in enumerate(space.items()):
        values = _values_along(domain)
        inputs = np.tile(others, (len(values), 1))
        inputs[:, place] = np.repeat([height_in(domain, value) for value in values], _DRAWS)
        means = forest.predict(inputs).reshape(len(values), _DRAWS).mean(axis=1)
        curves[key] = values, means.tolist()
    return curves


def height_in(domain: DrawnDomain, value: SettingValue) -> float:
    """Relative position of a value within its domain, from 0 to 1; choices in their order."""
    if isinstance(domain, ChoiceDomain):
        return domain.values.index(value) / max(1, len(domain.values) - 1) if value in domain.values else 0.5
    low, high, number = float(domain.low), float(domain.high), float(as_number(value))
    if domain.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return (number - low) / (high - low) if high > low else 0.5


def _values_along(domain: DrawnDomain) -> list[SettingValue]:
    if isinstance(domain, ChoiceDomain):
        return list(domain.values)
    low, high = float(domain.low), float(domain.high)
    along = np.geomspace(low, high, _VALUES) if domain.log else np.linspace(low, high, _VALUES)
    if isinstance(domain, IntDomain):
        return sorted({min(domain.high, round((v - low) / domain.step) * domain.step + domain.low) for v in along})
    return [float(value) for value in along]
