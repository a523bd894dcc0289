"""What earlier studies know about the space of a new one: weights of the sources, first points, and a prior mean.

Each earlier study has a model (:mod:`rayvldd.hyperparameter_search.source_model`), whose weight follows from the rank
agreement of its predictions with the results of the present study, as in Feurer et al. (RGPE, arXiv 1802.02219). Before
there are results the weight follows from the distance of the studies, and from how well the model predicts trials that
it does not know. A source that disagrees has no weight.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cholesky

from rayvldd.config.domains import SettingValue
from rayvldd.config.space import Space
from rayvldd.hyperparameter_search.curve_model import matern
from rayvldd.hyperparameter_search.source_model import FEWEST_TRIALS, Outcome, Source, SourceModel, wins
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates
from rayvldd.randomness import Stream, generator_of

NUM_FIRST = 3
"""Points of earlier studies that a study begins with."""
NEAR = 0.1
"""Largest distance in any setting, in units of its domain, of points that count as the same."""
MOST_SOURCES = 8
"""Of more studies the nearest ones are used."""
_EARLIER_TRIALS = 3.0
"""Trials of the present study that the weight of a source before any results counts for."""
_ENOUGH_TRIALS = 2.0
"""Trials after which a source has been compared with results, see :func:`_agreement`."""
_LEAST_WEIGHT = 0.1
"""A source with less is dropped."""
_LEAST_TO_BEGIN = 0.3
"""A source with less names no first points."""
_CANDIDATES, _DRAWS = 64, 512
_LENGTH = 0.5
"""Length scale of what a source does not explain, times the root of the number of settings."""


@dataclass(frozen=True)
class Result:
    """A trial of the present study: its place in the space and what it has reached."""

    units: np.ndarray
    active: np.ndarray
    outcome: Outcome


class LearnedSources:
    """The sources of a study.

    Args:
        space: The space of the study.
        sources: Earlier studies; those with fewer than five usable trials are not used.
        seed: Seed of the study.
    """

    def __init__(self, space: Space, sources: Sequence[Source], seed: int) -> None:
        self.coordinates, self._seed = SpaceCoordinates(space), seed
        usable = [source for source in sources if len(source.points) >= FEWEST_TRIALS]
        self.sources = sorted(usable, key=lambda source: source.distance)[:MOST_SOURCES] if space.drawn else []

    @cached_property
    def models(self) -> list[SourceModel]:
        """The model of each source."""
        return [SourceModel(self.coordinates, source) for source in self.sources]

    @cached_property
    def weights_before(self) -> np.ndarray:
        """Weight of each source before there are results, from 0 to 1."""
        found = np.array([model.skill * math.exp(-model.source.distance) for model in self.models])
        return np.where(found < _LEAST_WEIGHT, 0.0, found)

    @cached_property
    def weights_to_begin(self) -> np.ndarray:
        """The same for the first points: only sources whose points are expected to be better than published ones."""
        return np.where(self.weights_before < _LEAST_TO_BEGIN, 0.0, self.weights_before)

    def weights(self, results: Sequence[Result]) -> np.ndarray:
        """Weight of each source: estimated correlation of its predictions with the results, 0 if it is dropped.

        Args:
            results: The trials of the present study.
        """
        found = np.array(
            [
                (_EARLIER_TRIALS * before + trials * agreement) / (_EARLIER_TRIALS + trials)
                for before, (agreement, trials) in zip(self.weights_before, self._agreements(results), strict=True)
            ]
        )
        return np.where((found < _LEAST_WEIGHT) | (self.weights_before == 0), 0.0, found)

    def is_tested(self, results: Sequence[Result]) -> bool:
        """Whether the results tell if the sources with weight are right: good and bad points of each were run."""
        agreements = zip(self.weights(results), self._agreements(results), strict=True)
        return all(trials >= _ENOUGH_TRIALS for weight, (_, trials) in agreements if weight)

    def _agreements(self, results: Sequence[Result]) -> list[tuple[float, float]]:
        """Of each source, see :func:`_agreement`."""
        known = [result for result in results if result.outcome.is_known]
        if len(known) < 2:
            return [(0.0, 0.0)] * len(self.models)
        units, active = np.stack([one.units for one in known]), np.stack([one.active for one in known])
        won = wins([one.outcome for one in known])
        return [_agreement(model.predict(units, active), won) for model in self.models]

    def predict(self, weights: np.ndarray, units: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Predicted quantile at rows of units: the mean of the sources, by the squares of their weights."""
        shares = weights**2 / (weights**2).sum()
        total = np.zeros(len(units))
        for model, share in zip(self.models, shares.tolist(), strict=True):
            if share:
                total += share * model.predict(units, active)
        return total

    def slope(self, weights: np.ndarray) -> float:
        """Expected difference of recall for one unit of :meth:`predict`, as a share of the mean recall."""
        shares = weights**2 / (weights**2).sum()
        spreads = np.array([source.spread for source in self.sources])
        return float(shares @ (weights * spreads))

    def first_points(
        self, number: int = NUM_FIRST, candidates: Sequence[Mapping[str, SettingValue]] | None = None
    ) -> list[dict[str, SettingValue]]:
        """Points to begin with: those whose best one is expected to be the best, chosen one by one.

        What a source does not explain is drawn from a Gaussian process, so that points that are alike add little to
        each other.

        Args:
            number: How many.
            candidates: Points to choose from; default: those of all sources inside the space.
        """
        weights = self.weights_to_begin
        candidates = self._candidates(weights) if candidates is None else candidates
        if not candidates or not weights.any():
            return []
        units, active = self.coordinates.units_of(candidates)
        value = self.predict(weights, units, active)
        best = np.argsort(-value, kind="stable")[:_CANDIDATES]
        heights = self._drawn_heights(units[best], active[best], weights)
        reached, chosen = np.full(heights.shape[1], -np.inf), list[int]()
        for _ in range(min(number, len(best))):
            gains = np.maximum(heights, reached).mean(1)
            gains[
                [place for place in range(len(best)) if self._is_near(units[best[place]], units[best[chosen]])]
            ] = -np.inf
            place = int(np.argmax(gains))
            if not math.isfinite(gains[place]):
                break
            chosen.append(place)
            reached = np.maximum(reached, heights[place])
        return [dict(candidates[best[place]]) for place in chosen]

    def was_run(self, point: Mapping[str, SettingValue]) -> list[int]:
        """Indexes of the sources with weight that have run this point, or one near it."""
        units, active = self.coordinates.units_of([point])
        if not active.any():
            return []
        return [
            index
            for index, (model, weight) in enumerate(zip(self.models, self.weights_to_begin, strict=True))
            if weight and self._is_near(units[0][active[0]], model.units[:, active[0]])
        ]

    def are_near(self, point: Mapping[str, SettingValue], others: Sequence[Mapping[str, SettingValue]]) -> bool:
        """Whether one of other points is so near that it counts as the same."""
        units, _ = self.coordinates.units_of([point, *others])
        return self._is_near(units[0], units[1:])

    def _is_near(self, units: np.ndarray, others: np.ndarray) -> bool:
        return bool(len(others)) and bool((np.abs(others - units).max(1) <= NEAR).any())

    def _candidates(self, weights: np.ndarray) -> list[Mapping[str, SettingValue]]:
        """The distinct points of the sources with weight that lie inside the space."""
        domains = self.coordinates.domains
        found = dict[str, Mapping[str, SettingValue]]()
        for model, weight in zip(self.models, weights.tolist(), strict=True):
            for point, outcome in zip(model.source.points, model.source.outcomes, strict=True):
                if (
                    weight
                    and not outcome.failed
                    and all(value in domains[k] for k, value in point.items() if k in domains)
                ):
                    found.setdefault(repr(sorted(point.items())), point)
        return list(found.values())

    def _drawn_heights(self, units: np.ndarray, active: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Possible quantiles of points in the present study, one column for each draw.

        A draw takes one source by its weight; its prediction has the correlation of its weight with the truth.
        """
        generator = generator_of(self._seed, Stream.FIRST_POINTS)
        predictions = np.stack([model.predict(units, active) for model in self.models])
        at_points = self.coordinates.coordinates(units, active)
        apart = np.sqrt(((at_points[:, None, :] - at_points[None, :, :]) ** 2).sum(2))
        kernel = matern(apart / (_LENGTH * math.sqrt(at_points.shape[1])))
        factor = cholesky(kernel + 1e-6 * np.eye(len(kernel)), lower=True)
        which = generator.choice(len(weights), size=_DRAWS, p=weights / weights.sum())
        share = np.minimum(weights[which], 1.0)
        rest = np.sqrt(1 - share**2) * (factor @ generator.normal(size=(len(units), _DRAWS)))
        heights: np.ndarray = predictions[which].T + rest
        return heights


def _agreement(predicted: np.ndarray, won: np.ndarray) -> tuple[float, float]:
    """Correlation that corresponds to the agreement of predictions with comparisons, and the trials it stands for.

    Kendall's rank correlation, in which pairs count by the difference of their predictions up to 1: a source that
    predicts two trials to be alike says nothing on which of them is better. A correlation follows from it as for a
    Gaussian distribution: ``sin(pi tau / 2)``.
    """
    difference = predicted[:, None] - predicted[None, :]
    counts = np.minimum(np.abs(difference), 1) * (won != 0)
    total = counts.sum()
    if not total:
        return 0.0, 0.0
    tau = float((counts * np.sign(difference) * won).sum() / total)
    return math.sin(math.pi * tau / 2), float(total / (len(predicted) - 1))


def start_points(
    published: Sequence[Mapping[str, SettingValue]],
    learned: LearnedSources,
    number: int = NUM_FIRST,
    candidates: Sequence[Mapping[str, SettingValue]] | None = None,
) -> list[dict[str, SettingValue]]:
    """The first points of a study: those of its sources, then the published ones that no source has run.

    Args:
        published: Initial points of the study.
        learned: Its sources.
        number: Points of the sources.
        candidates: See :meth:`LearnedSources.first_points`.
    """
    first = learned.first_points(number, candidates)
    is_complete = learned.coordinates.space.is_complete  # what the sampler adds to another point is not known yet
    known = [point for point in published if is_complete(point)]
    again = [point for point in known if learned.was_run(point) or learned.are_near(point, first)]
    return first + [dict(point) for point in published if point not in again]
