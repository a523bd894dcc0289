"""Stopping of trials that will hardly beat the best one, by a model of the learning curves of all trials.

The predictive termination criterion of Domhan, Springenberg and Hutter ("Speeding Up Automatic Hyperparameter
Optimization of Deep Neural Networks by Extrapolation of Learning Curves", IJCAI 2015): a trial is stopped if its
probability of ending above the best recall so far is below a threshold, 0.05 in the paper. Deviations: the probability
is that of the Gaussian process over point and outer step (:mod:`rayvldd.hyperparameter_search.curve_model`), which
knows the curves of the other trials, and not of parametric curves fitted to the trial alone; the best recall is the
highest mean of the model, since a best evaluation is partly noise.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from scipy.special import ndtr

from rayvldd.config.domains import SettingValue
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.curve_model import CurveModel, Curves
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates
from rayvldd.hyperparameter_search.stopping import StoppingRule
from rayvldd.records.trial import Trial

FEWEST_TRIALS = 5
"""Trials with an evaluation after the initial set, before the model is used."""
MOST_ROWS = 300
"""Evaluations that the model is fitted to; of long curves evenly spread ones."""


class PredictiveTermination:
    """Stops a trial that is unlikely to end above the best recall so far, in addition to another rule.

    The hyperparameters of the model are fitted again with every further trial, and kept between, so that a decision
    takes milliseconds.

    Args:
        rule: The other rule, which is called at every evaluation.
        space: The space of the trials.
        last_step: Outer step at which a trial at a point ends.
        longest: The largest of these.
        probability: A trial with a smaller one is stopped.
    """

    def __init__(
        self,
        rule: StoppingRule,
        space: Space,
        last_step: Callable[[Mapping[str, SettingValue]], int],
        longest: int,
        probability: float,
    ) -> None:
        self._rule, self._coordinates, self._domains = rule, SpaceCoordinates(space), space.domains
        self._last_step, self._longest, self._probability = last_step, longest, probability
        self._fitted: CurveModel | None = None
        """The model with its hyperparameters."""
        self._num_fitted = 0
        """Trials that these were fitted to."""

    def reason_to_stop(self, trial: Trial, history: Collection[Trial]) -> str | None:
        """Apply the other rule, and compare the trial's predicted end with the best recall so far."""
        reason = self._rule.reason_to_stop(trial, history)
        if reason is not None:
            return reason
        evaluated = [one for one in history if _rows(one)]
        place = next((index for index, one in enumerate(evaluated) if one.trial_id == trial.trial_id), None)
        if place is None or len(evaluated) < FEWEST_TRIALS or trial.outer_step >= self._last_step(trial.point):
            return None
        probability = self.probability_to_win(place, evaluated)
        if probability >= self._probability:
            return None
        return f"unlikely to become the best at step {trial.outer_step}: probability {probability:.3f}"

    def probability_to_win(self, place: int, trials: Sequence[Trial]) -> float:
        """Probability that the last evaluation of a trial is above the best recall so far.

        Args:
            place: Index of the trial.
            trials: All trials with an evaluation after the initial set.
        """
        model, rows = self._model_of(trials)
        may_win = np.array([one.state != "failed" for one in trials])[rows.trial]
        best = model.means_of(rows.trial[may_win], rows.times[may_win]).max()
        last = self._time_of(np.array([self._last_step(trials[place].point)]))
        means, sds = model.predict_known(np.array([place]), last)
        return float(ndtr((means[0] - best) / math.hypot(float(sds[0]), model.noise)))

    def _model_of(self, trials: Sequence[Trial]) -> tuple[CurveModel, Curves]:
        """The model of all evaluations, and these."""
        points = [typed_point(one.point, self._domains) for one in trials]
        rows = [(index, step, recall) for index, one in enumerate(trials) for step, recall in _rows(one)]
        index, steps, recalls = (np.array(column) for column in zip(*rows, strict=True))
        at_points = self._coordinates.coordinates(*self._coordinates.units_of(points))
        curves = Curves(at_points, index, self._time_of(steps), recalls.astype(float)).thinned(MOST_ROWS)
        if self._fitted is None or len(trials) != self._num_fitted:
            self._fitted, self._num_fitted = CurveModel.fit(curves), len(trials)
            return self._fitted, curves
        return self._fitted.with_curves(curves), curves

    def _time_of(self, steps: np.ndarray) -> np.ndarray:
        times: np.ndarray = np.log1p(steps) / math.log1p(self._longest)
        return times


def with_prediction(rule: StoppingRule, study: Study, probability: float) -> StoppingRule:
    """Add the criterion to the rule of a study."""
    return PredictiveTermination(
        rule, study.space, study.last_step_at, study.largest("distillation.outer_steps"), probability
    )


def _rows(trial: Trial) -> list[tuple[int, float]]:
    """The evaluations after the initial set, which hardly depends on the point."""
    return [(one.outer_step, one.recall) for one in trial.evaluations if one.outer_step > 0]
