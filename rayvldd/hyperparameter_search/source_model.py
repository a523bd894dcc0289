"""A model of the trials of one earlier study, for the search of another one: which points were good there.

Recalls of different studies are not comparable, their order of points often is. The model therefore predicts ranks: the
trials of a study are ordered, and their ranks become quantiles of a Gaussian distribution (Salinas et al., arXiv
1909.13595). A Gaussian process over the settings of the present space is fitted to these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue
from scipy.special import ndtri

from rayvldd.config.domains import ChoiceDomain, FixedDomain, SettingValue
from rayvldd.config.space import Space
from rayvldd.hyperparameter_search.curve_model import CurveModel, Curves
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates

FEWEST_TRIALS = 5
"""A study with fewer usable trials is no source."""
MOST_TRIALS = 200
"""Of a longer study evenly spread trials are used: the time of a fit grows with their cube."""
_FARTHEST = 1.0
"""Widths of its domain that a number may lie outside of it."""
_USUAL_SKILL, _USUAL_TRIALS = 0.5, 8
"""Correlation with left-out trials that a source is taken to have before it is measured; the trials it counts for."""


@dataclass(frozen=True)
class Outcome:
    """What a trial has reached so far."""

    recalls: Mapping[int, float]
    """Validation recall in percent by outer step, after the initial set."""
    failed: bool = False
    """Whether it diverged."""

    @property
    def is_known(self) -> bool:
        """Whether it can be compared with others."""
        return self.failed or bool(self.recalls)


def wins(outcomes: Sequence[Outcome]) -> np.ndarray:
    """Whether each trial is better (1) or worse (-1) than each other one; 0: equal, or nothing to compare.

    Two trials are compared by their best recalls up to the last outer step that both have, so that a trial that was
    stopped early (censored) is neither taken for finished nor left out. A failed trial is worse than all that did not
    fail.
    """
    number = len(outcomes)
    steps = sorted({step for outcome in outcomes for step in outcome.recalls})
    if not steps:
        best, last = np.zeros((number, 1)), np.zeros(number, dtype=int)
    else:
        at_steps = np.array([[outcome.recalls.get(step, -np.inf) for step in steps] for outcome in outcomes])
        best = np.maximum.accumulate(at_steps, axis=1)
        last = np.array([max((steps.index(step) for step in outcome.recalls), default=0) for outcome in outcomes])
    shared = np.minimum(last[:, None], last[None, :])
    at_shared = best[np.arange(number)[:, None], shared]
    higher = (at_shared > at_shared.T).astype(int)
    failed = np.array([outcome.failed for outcome in outcomes], dtype=int)
    either = (failed[:, None] + failed[None, :]) > 0
    found: np.ndarray = np.where(either, failed[None, :] - failed[:, None], higher - higher.T)
    return found


def quantile_targets(outcomes: Sequence[Outcome]) -> np.ndarray:
    """Targets of trials: the Gaussian quantile of each one's rank by its share of won comparisons; ties share ranks."""
    from scipy.stats import rankdata  # takes a second to import, which every process of a trial would spend

    ranks = rankdata(wins(outcomes).sum(1))
    targets: np.ndarray = ndtri((ranks - 0.5) / len(ranks))
    return targets


@dataclass(frozen=True)
class Source:
    """The usable trials of an earlier study."""

    name: str
    points: Sequence[Mapping[str, SettingValue]]
    """Settings of the present space at each trial, as far as the study has them; numbers may lie outside."""
    outcomes: Sequence[Outcome]
    distance: float = 0.0
    """Of the studies from each other, see :class:`~rayvldd.hyperparameter_search.descriptors.Descriptors`."""
    content: str = ""
    """Hash of the trials."""

    @property
    def spread(self) -> float:
        """Standard deviation of the best recalls of trials that did not fail, divided by their mean."""
        best = [max(one.recalls.values()) for one in self.outcomes if one.recalls and not one.failed]
        return float(np.std(best) / np.mean(best)) if len(best) > 1 and np.mean(best) > 0 else 0.0


def point_by_name(settings: Mapping[str, JsonValue], space: Space) -> dict[str, SettingValue] | None:
    """The settings of a trial that the space has, by name; None if they belong to no place in or near the space.

    A number may lie outside its domain by the width of the domain, since the model can use it all the same. A choice
    must be among the values of its domain.
    """
    point: dict[str, SettingValue] = {}
    for key in space.order:
        domain = space.domains[key]
        if not space.is_active(key, point):
            continue
        if isinstance(domain, FixedDomain):
            point[key] = domain.value
            continue
        found = settings.get(key)
        value: object = tuple(found) if isinstance(found, list) else found
        if isinstance(domain, ChoiceDomain):
            if key in settings and value not in domain:
                return None
            if key in settings:
                point |= typed_point({key: domain.values[_index(domain, value)]}, space.domains)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if domain.log and value <= 0:
                return None
            point[key] = value
    units, active = SpaceCoordinates(space).units_of([point])
    return point if (np.abs(units - 0.5)[active] <= 0.5 + _FARTHEST).all() else None


def _index(domain: ChoiceDomain, value: object) -> int:
    return next(i for i, known in enumerate(domain.values) if known == value and isinstance(value, type(known)))


class SourceModel:
    """The model of a source.

    Args:
        coordinates: Of the present space.
        source: The trials.
    """

    def __init__(self, coordinates: SpaceCoordinates, source: Source) -> None:
        self.source, self._coordinates = source, coordinates
        number = len(source.points)
        chosen = np.unique(np.linspace(0, number - 1, min(number, MOST_TRIALS)).round().astype(int))
        self.units, self._active = coordinates.units_of([source.points[index] for index in chosen])
        self._known = self._active.any(0)
        targets = quantile_targets([source.outcomes[index] for index in chosen])
        at_points = coordinates.coordinates(self.units, self._active)
        rows = np.arange(len(chosen))
        self._model = CurveModel.fit(Curves(at_points, rows, np.ones(len(chosen)), targets))
        left_out = self._model.left_out()
        measured = float(np.corrcoef(left_out, targets)[0, 1]) if left_out.std() * targets.std() > 0 else 0.0
        counted = len(chosen) * max(0.0, measured)  # of a constant it is -1, since the mean of the others is lower
        self.skill = (_USUAL_TRIALS * _USUAL_SKILL + counted) / (_USUAL_TRIALS + len(chosen))
        """Correlation of the model with trials that it does not know; shrunk to a usual value where these are few."""

    def predict(self, units: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Predicted quantile at rows of units; settings that the source does not have make no difference."""
        has = active & self._known
        at_points = self._coordinates.coordinates(np.where(has, units, 0.5), has)
        means, _ = self._model.predict(at_points, np.ones(len(units)))
        return means
