"""The sampler ``curves``: proposes points by a model of the learning curves of all trials.

The model (:mod:`rayvldd.hyperparameter_search.curve_model`) is fitted to every evaluation of finished, stopped, running
and failed trials. The proposal has the largest expected improvement of recall at the last outer step over the best
recall that the model gives any trial, times the probability that the trial does not diverge. Trials that are running
count as if they had ended at their predicted recalls. What earlier studies predict
(:mod:`rayvldd.hyperparameter_search.learned_sources`) is the mean of the model before it is fitted.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rayvldd.config.domains import ChoiceDomain, SettingValue
from rayvldd.config.space import Space
from rayvldd.hyperparameter_search.curve_model import CurveModel, Curves, log_expected_improvement, matern
from rayvldd.hyperparameter_search.learned_sources import LearnedSources, Result
from rayvldd.hyperparameter_search.optuna_trials import (
    FAILED,
    OptunaValue,
    distribution_of,
    optuna_choices,
    optuna_value,
)
from rayvldd.hyperparameter_search.source_model import Outcome
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates
from rayvldd.hyperparameter_search.tpe import Tpe
from rayvldd.randomness import sampler_seed
from rayvldd.records.trial import Prediction

MOST_TRIALS = 250
"""With more trials TPE proposes, whose time does not grow with their cube."""
MOST_ROWS = 400
"""Evaluations that the model is fitted to; of long curves evenly spread ones."""
FEWEST_IN_BRANCH = 5
"""Trials with the same conditional settings, before the model chooses the values of these."""
TEST_EVERY = 3
"""Of so many proposals one is TPE's, which is random at first, until earlier studies are tested."""
FEWEST_WITH_SOURCES = 2
"""Trials with an evaluation before the model is used, if earlier studies suggest a mean."""
_DRAWN, _STARTS, _NEIGHBOURS, _DISTANCES = 600, 5, 30, (0.2, 0.1, 0.05)
"""Candidates: points drawn evenly, then rounds of neighbours of the best ones, closer from round to round."""
_PRIOR_WEIGHT = 2.0
"""Trials that the share of failures among all trials counts for, in the probability of a failure at a point."""
OUTER_STEPS = "distillation.outer_steps"


@dataclass(frozen=True)
class _History:
    """The known trials of an Optuna study."""

    units: np.ndarray
    active: np.ndarray
    curves: Curves
    last: np.ndarray
    """Time of the last outer step of each trial."""
    failed: np.ndarray
    running: np.ndarray
    outcomes: list[Outcome]

    @property
    def results(self) -> list[Result]:
        """The trials as results that earlier studies are compared with."""
        return [Result(*known) for known in zip(self.units, self.active, self.outcomes, strict=True)]

    @cached_property
    def has_rows(self) -> np.ndarray:
        """Which trials have an evaluation."""
        return np.bincount(self.curves.trial, minlength=len(self.units)) > 0


@dataclass(frozen=True)
class PriorMean:
    """Mean recall that earlier studies suggest, up to a curve that all points share; 0 without such studies."""

    learned: LearnedSources | None = None
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    slope: float = 0.0
    """Recall at the last outer step for one unit of the sources' prediction, not below 0."""

    def __call__(self, units: np.ndarray, active: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Mean at rows of units and times; the differences between points grow in proportion to the time."""
        if self.learned is None or not self.slope:
            return np.zeros(len(units))
        found: np.ndarray = self.slope * times * self.learned.predict(self.weights, units, active)
        return found


class CurvesSampler(optuna.samplers.BaseSampler):
    """An Optuna sampler for trials that report the recall of each evaluation as their intermediate values.

    TPE samples until enough trials have an evaluation, beyond 250 trials, with several objectives, and, within a branch
    of conditional settings, until five trials have these.

    Args:
        space: The space of the trials.
        last_step: Outer step at which a trial at a point ends.
        longest: The largest of these.
        seed: Seed of the study.
        num_start_trials: Trials with an evaluation before the model is used; two with earlier studies.
    """

    def __init__(
        self,
        space: Space,
        last_step: Callable[[Mapping[str, SettingValue]], int],
        longest: int,
        *,
        seed: int,
        num_start_trials: int,
    ) -> None:
        self._learned: LearnedSources | None = None
        self._prior = PriorMean()
        self._coordinates, self._last_step, self._longest = SpaceCoordinates(space), last_step, longest
        self._seed, self._num_start_trials = seed, num_start_trials
        self._distributions = {key: distribution_of(domain) for key, domain in space.drawn.items()}
        self._model: CurveModel | None = None
        self._gain: float | None = None
        self._history: _History | None = None
        self._tpe = self._make_tpe(0)

    def learn_from(self, learned: LearnedSources) -> None:
        """Take what earlier studies predict as the mean of the model."""
        self._learned = learned if learned.weights_before.any() else None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All settings where the model is used; else those of TPE."""
        self._model, self._gain, self._tpe = None, None, self._make_tpe(trial.number)
        self._history = self._known_trials(study, trial)
        if self._history is None:
            return self._tpe.infer_relative_search_space(study, trial)
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, OptunaValue]:
        """Propose by the model; settings that are left out are sampled by :meth:`sample_independent`."""
        history = self._history
        if history is None:
            return self._tpe.sample_relative(study, trial, search_space)
        self._model, self._prior = self._fitted(history)
        acquisition = Acquisition(self._coordinates, self._model, history, self._times_at, self._prior)
        units = self.best_units(acquisition, trial)
        self._gain = math.exp(float(acquisition(units[None])[0])) / self._model.noise
        point = self._coordinates.point_of(units)
        kept = self._chosen_by_model(history, units)
        return {key: optuna_value(point[key]) for key in point if key in kept}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """Sample one setting by TPE."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)

    @property
    def uses_model(self) -> bool:
        """Whether the model makes the present proposal, and not TPE."""
        return self._history is not None

    def reseed_rng(self) -> None:
        """Do nothing: random numbers are functions of seed and trial."""

    def predicted(self, point: Mapping[str, SettingValue]) -> Prediction | None:
        """The recall at the last outer step that the model of the last proposal predicts at a point, if it was used."""
        if self._model is None:
            return None
        units, active = self._coordinates.units_of([point])
        at_point = self._coordinates.coordinates(units, active)
        times = self._times([point])
        means, sds = self._model.predict(at_point, times)
        means = means + self._prior(units, active, times)
        sd = math.hypot(float(sds[0]), self._model.noise)
        return Prediction(recall=round(float(means[0]), 4), sd=round(sd, 4))

    @property
    def expected_gain(self) -> float | None:
        """Expected improvement of the last proposal over the best recall, in standard deviations of the noise.

        It is None where the model did not make the proposal.
        """
        return self._gain

    def _fitted(self, history: _History) -> tuple[CurveModel, PriorMean]:
        """The model of what the earlier studies do not explain, and their prior mean.

        Its slope is their expected one, corrected by generalised least squares from the present trials, with a prior
        whose standard deviation is the expected slope.
        """
        learned, curves = self._learned, history.curves
        weights = learned.weights(history.results) if learned else np.zeros(0)
        if learned is None or not weights.any():
            return CurveModel.fit(curves), PriorMean()
        unit = learned.predict(weights, history.units, history.active)[curves.trial] * curves.times
        expected = learned.slope(weights) * float(curves.recalls.mean())
        model = CurveModel.fit(replace(curves, recalls=curves.recalls - expected * unit))
        found, sd = model.slope_of(unit)
        slope = max(0.0, expected + found * expected**2 / (expected**2 + sd**2)) if expected else 0.0
        return model.with_recalls(curves.recalls - slope * unit), PriorMean(learned, weights, slope)

    def _make_tpe(self, number: int) -> Tpe:
        """TPE for the trial of a number, so that its random numbers do not depend on earlier calls."""
        return Tpe(sampler_seed(self._seed, number), self._num_start_trials)

    def _known_trials(self, study: optuna.Study, trial: FrozenTrial) -> _History | None:
        """The trials that the model is fitted to; None if it is not to be used."""
        if study.directions != [StudyDirection.MAXIMIZE] or not self._distributions:
            return None
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        known = [one for one in study.get_trials(deepcopy=False, states=states) if one.number != trial.number]
        distinct = {(repr(one.params), repr(one.intermediate_values)): one for one in known}
        trials = list(distinct.values())  # a known result that was reported again is no new one
        fewest = min(self._num_start_trials, FEWEST_WITH_SOURCES) if self._learned else self._num_start_trials
        if not fewest <= sum(bool(_rows(one)) for one in trials) or len(trials) > MOST_TRIALS:
            return None
        points = [self._point_in(one.params) for one in trials]
        units, active = self._coordinates.units_of(points)
        rows = [(index, step, recall) for index, one in enumerate(trials) for step, recall in _rows(one)]
        index, steps, recalls = (np.array(column) for column in zip(*rows, strict=True))
        at_points = self._coordinates.coordinates(units, active)
        curves = Curves(at_points, index, self._time_of(steps), recalls.astype(float)).thinned(MOST_ROWS)
        failed = np.array([FAILED in one.user_attrs for one in trials])
        running = np.array([one.state is TrialState.RUNNING for one in trials])
        outcomes = [Outcome(dict(_rows(one)), bool(lost)) for one, lost in zip(trials, failed, strict=True)]
        history = _History(units, active, curves, self._times(points), failed, running, outcomes)
        return None if self._tests_sources(history, trial.number) else history

    def _tests_sources(self, history: _History, number: int) -> bool:
        """Whether a proposal is to show if the earlier studies are right.

        Nothing shows that while all points were chosen because these studies take them for good.
        """
        return number % TEST_EVERY == 0 and self._learned is not None and not self._learned.is_tested(history.results)

    def _point_in(self, params: Mapping[str, OptunaValue]) -> dict[str, SettingValue]:
        """The settings of a trial, with lists as in the space."""
        point = dict[str, SettingValue]()
        for key, domain in self._coordinates.domains.items():
            if key in params and isinstance(domain, ChoiceDomain):
                point[key] = domain.values[optuna_choices(domain).index(params[key])]
            elif key in params:
                point[key] = params[key]
        return point

    def _time_of(self, steps: np.ndarray) -> np.ndarray:
        times: np.ndarray = np.log1p(steps) / math.log1p(self._longest)
        return times

    def _times(self, points: Sequence[Mapping[str, SettingValue]]) -> np.ndarray:
        """Time of the last outer step at each point."""
        return self._time_of(np.array([self._last_step(point) for point in points]))

    def _times_at(self, units: np.ndarray) -> np.ndarray:
        """The same for rows of units; where the number of outer steps is not searched, it is one time."""
        if OUTER_STEPS not in self._coordinates.domains:
            return np.full(len(units), self._times([{}])[0])
        return self._times([self._coordinates.point_of(one) for one in units])

    def best_units(self, acquisition: "Acquisition", trial: FrozenTrial) -> np.ndarray:
        """Units of the candidate with the best acquisition; a subclass may have other candidates."""
        generator = np.random.default_rng(sampler_seed(self._seed, trial.number))
        given, near = self._given_units(trial), self._coordinates.near
        known = near(generator, acquisition.best_known(_STARTS), _NEIGHBOURS, _DISTANCES[0])
        batch = np.concatenate([self._coordinates.draw(generator, _DRAWN), known])
        candidates, values = np.empty((0, batch.shape[1])), np.empty(0)
        for distance in (*_DISTANCES, None):
            batch = np.where(np.isnan(given), batch, given)
            candidates, values = np.concatenate([candidates, batch]), np.concatenate([values, acquisition(batch)])
            best = np.argsort(-values, kind="stable")[:_STARTS]
            if distance is not None:
                batch = near(generator, candidates[best], _NEIGHBOURS, distance)
        best_units: np.ndarray = candidates[np.argmax(values)]
        return best_units

    def _given_units(self, trial: FrozenTrial) -> np.ndarray:
        """Units of the settings that are fixed for a trial; not a number for the others."""
        point = self._point_in(trial.system_attrs.get("fixed_params", {}))
        units, active = self._coordinates.units_of([point])
        given: np.ndarray = np.where(active, units, np.nan)[0]
        return given

    def _chosen_by_model(self, history: _History, units: np.ndarray) -> set[str]:
        """The settings that the model chooses; not the conditional ones of a branch that is hardly known."""
        conditional, keys = self._coordinates.conditional, list(self._coordinates.domains)
        if not conditional.any():
            return set(keys)
        branch = self._coordinates.active_at(units[None, :])[0]
        in_branch = (history.active == branch).all(1) & history.has_rows
        if in_branch.sum() >= FEWEST_IN_BRANCH:
            return set(keys)
        in_conditions = set(itertools.chain.from_iterable(self._coordinates.domains[key].when for key in keys))
        return {key for key, depends in zip(keys, conditional, strict=True) if not depends or key in in_conditions}


class Acquisition:
    """Logarithm of the expected improvement times the probability of not failing.

    Args:
        coordinates: Of the space.
        model: Fitted to the evaluations.
        history: The known trials.
        times_at: Time of the last outer step at rows of units.
        prior: Mean that earlier studies suggest; ``model`` is the model of the rest.
    """

    def __init__(
        self,
        coordinates: SpaceCoordinates,
        model: CurveModel,
        history: _History,
        times_at: Callable[[np.ndarray], np.ndarray],
        prior: PriorMean,
    ) -> None:
        self._coordinates, self._history, self._times_at, self._prior = coordinates, history, times_at, prior
        self._scales = model.hyperparameters.coordinates
        self._at_last = model.means_of(np.arange(len(history.units)), history.last)
        self._at_last = self._at_last + prior(history.units, history.active, history.last)
        rows, times = model.curves.trial, model.curves.times
        offsets = prior(history.units[rows], history.active[rows], times)
        means = (model.means_of(rows, times) + offsets)[~history.failed[rows]]
        self._best = float(means.max()) if len(means) else float((model.curves.recalls + offsets).max())
        pending = np.flatnonzero(history.running)
        self._model = model
        if len(pending):
            self._model = model.believing(model.curves.points, pending, history.last[pending])
        ended = ~history.running
        self._ended, self._share = np.flatnonzero(ended), float(history.failed.sum() / max(ended.sum(), 1))

    def best_known(self, number: int) -> np.ndarray:
        """Units of the trials that the model gives the highest recalls at their last outer steps."""
        order = np.argsort(-np.where(self._history.failed, -np.inf, self._at_last), kind="stable")
        units: np.ndarray = self._history.units[order[:number]]
        return units

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """Acquisition at rows of units; in a finite space minus infinity at known points."""
        active = self._coordinates.active_at(units)
        at_points = self._coordinates.coordinates(units, active)
        times = self._times_at(units)
        means, sds = self._model.predict(at_points, times)
        values: np.ndarray = log_expected_improvement(means + self._prior(units, active, times), sds, self._best)
        values += np.log1p(-self._failure(at_points))
        if self._coordinates.space.num_points is not None:
            same = np.isclose(units[:, None, :], self._history.units[None, :, :]) | ~active[:, None, :]
            values[same.all(2).any(1)] = -np.inf
        return values

    def _failure(self, at_points: np.ndarray) -> np.ndarray:
        """Probability of a failure: its share among ended trials, weighted by nearness in the model's length scales."""
        known = self._model.curves.points[self._ended]
        if not len(known):
            return np.zeros(len(at_points))
        differences = (at_points[:, None, :] - known[None, :, :]) / self._scales
        weights = matern(np.sqrt((differences**2).sum(2)))
        failures = weights @ self._history.failed[self._ended]
        probability: np.ndarray = (failures + _PRIOR_WEIGHT * self._share) / (weights.sum(1) + _PRIOR_WEIGHT)
        return np.minimum(probability, 0.99)


def _rows(trial: FrozenTrial) -> list[tuple[int, float]]:
    """The evaluations after the initial set, which hardly depends on the point."""
    return [(step, recall) for step, recall in sorted(trial.intermediate_values.items()) if step > 0]
