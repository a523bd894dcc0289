"""A Gaussian process over the learning curves of trials, for the sampler ``curves``.

The recall of a trial at point ``x`` and outer step ``t`` is modelled as ``m(t) + f(x, t) + g(t) + noise``: a curve that
all trials share, a term of the point, a term of the trial that its point does not explain, and the noise of an
evaluation. All three functions are Gaussian processes with a Matérn-5/2 kernel over ``log(1 + t)``; ``f`` has in
addition one over the point, with a length scale for each coordinate (ARD). Amplitudes and length scales maximise the
posterior under log-normal priors.

This is the model of freeze–thaw Bayesian optimisation (Swersky et al., arXiv 1406.3896) with a stationary kernel over
time in place of an exponential decay.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr

_ROOT_5 = math.sqrt(5)
_MAX_ITERATIONS = 30
"""Iterations of the fit; more change proposals little and take as long again."""
_JITTER = 1e-8
_BOUND = 5.0
"""Distance of the logarithm of a hyperparameter from its prior's, beyond which the fit does not go."""


@dataclass(frozen=True)
class Prior:
    """A log-normal prior."""

    median: float
    sd: float
    """Standard deviation of the logarithm."""


@dataclass(frozen=True)
class Priors:
    """Priors of the hyperparameters, for recalls with mean 0 and variance 1 and coordinates from 0 to 1."""

    coordinates: Prior = Prior(0.5, 0.7)
    """Length scale of a point's coordinate, times the root of the number of coordinates."""
    time: Prior = Prior(1.0, 0.5)
    """Length scale over time, which is 1 at the last outer step."""
    shared: Prior = Prior(1.0, 0.5)
    """Amplitude of the curve that all trials share."""
    point: Prior = Prior(1.0, 0.5)
    """Amplitude of the term of the point."""
    own: Prior = Prior(0.5, 0.5)
    """Amplitude of a trial's own curve."""
    noise: Prior = Prior(0.25, 0.5)
    """Standard deviation of the noise."""

    def arrays(self, num_coordinates: int) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the logarithms, in the order of :class:`Hyperparameters`."""
        each = replace(self.coordinates, median=self.coordinates.median * math.sqrt(num_coordinates))
        priors = [each] * num_coordinates + [self.time, self.shared, self.point, self.own, self.noise]
        return np.log([prior.median for prior in priors]), np.array([prior.sd for prior in priors])


@dataclass(frozen=True)
class Hyperparameters:
    """Length scales and amplitudes."""

    coordinates: np.ndarray
    time: float
    shared: float
    point: float
    own: float
    noise: float

    @classmethod
    def of(cls, logarithms: np.ndarray) -> "Hyperparameters":
        """From the logarithms of all, in the order of the fields."""
        time, shared, point, own, noise = np.exp(logarithms[-5:]).tolist()
        return cls(np.exp(logarithms[:-5]), time, shared, point, own, noise)


@dataclass(frozen=True)
class Curves:
    """The evaluations of trials, one row each."""

    points: np.ndarray
    """Coordinates of each trial, from 0 to 1."""
    trial: np.ndarray
    """Index of each row's trial."""
    times: np.ndarray
    """Time of each row: ``log(1 + t)``, divided by its value at the last outer step."""
    recalls: np.ndarray

    def thinned(self, most: int) -> "Curves":
        """At most about ``most`` rows: of long curves evenly spread ones, with the last."""
        counts = np.bincount(self.trial, minlength=len(self.points))
        cap = int(counts.max(initial=1))
        while cap > 1 and np.minimum(counts, cap).sum() > most:
            cap -= 1
        kept = []
        for index in range(len(self.points)):
            rows = np.flatnonzero(self.trial == index)
            if len(rows) > cap:
                rows = rows[np.unique(np.linspace(len(rows) - 1, 0, cap).round().astype(int))]
            kept.append(rows)
        chosen = np.concatenate(kept)
        return replace(self, trial=self.trial[chosen], times=self.times[chosen], recalls=self.recalls[chosen])


def matern(distances: np.ndarray) -> np.ndarray:
    """The Matérn-5/2 kernel of distances in units of the length scale."""
    scaled = _ROOT_5 * distances
    kernel: np.ndarray = (1 + scaled + scaled * scaled / 3) * np.exp(-scaled)
    return kernel


def _slope(distances: np.ndarray) -> np.ndarray:
    """Minus the derivative of :func:`matern` with respect to the distance, divided by the distance."""
    scaled = _ROOT_5 * distances
    slope: np.ndarray = (5 / 3) * (1 + scaled) * np.exp(-scaled)
    return slope


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squares = (one * one).sum(1)[:, None] + (other * other).sum(1)[None, :] - 2 * one @ other.T
    distances: np.ndarray = np.sqrt(np.maximum(squares, 0))
    return distances


def negative_log_posterior(
    logarithms: np.ndarray, curves: Curves, values: np.ndarray, priors: tuple[np.ndarray, np.ndarray]
) -> tuple[float, np.ndarray]:
    """Objective of the fit, up to a constant, and its gradient with respect to the logarithms.

    Args:
        logarithms: Of the hyperparameters.
        curves: The evaluations.
        values: Their recalls, with mean 0 and variance 1.
        priors: Means and standard deviations of the logarithms.
    """
    h, trial = Hyperparameters.of(logarithms), curves.trial
    scaled, times = curves.points / h.coordinates, curves.times[:, None] / h.time
    between, apart = _distances(scaled, scaled), np.abs(times - times.T)
    same = trial[:, None] == trial[None, :]
    over_point, over_time = matern(between)[np.ix_(trial, trial)], matern(apart)
    amplitudes = h.shared**2 + h.point**2 * over_point + h.own**2 * same
    kernel = amplitudes * over_time
    kernel.flat[:: len(kernel) + 1] += h.noise**2 + _JITTER
    factor = cholesky(kernel, lower=True, check_finite=False)
    weights = cho_solve((factor, True), values, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(len(values)), check_finite=False)
    misfit = (inverse - np.outer(weights, weights)) / 2
    of_time = misfit * over_time
    gradient = np.empty_like(logarithms)
    gradient[:-5] = _gradient_of_coordinates(h.point**2 * of_time, between, scaled, trial)
    gradient[-5] = (misfit * amplitudes * _slope(apart) * apart**2).sum()
    gradient[-4] = 2 * h.shared**2 * of_time.sum()
    gradient[-3] = 2 * h.point**2 * (of_time * over_point).sum()
    gradient[-2] = 2 * h.own**2 * of_time[same].sum()
    gradient[-1] = 2 * h.noise**2 * np.trace(misfit)
    from_prior = (logarithms - priors[0]) / priors[1]
    value = values @ weights / 2 + np.log(np.diag(factor)).sum() + from_prior @ from_prior / 2
    return float(value), gradient + from_prior / priors[1]


def _gradient_of_coordinates(
    misfit: np.ndarray, between: np.ndarray, scaled: np.ndarray, trial: np.ndarray
) -> np.ndarray:
    """Sum of ``misfit`` times the derivative of the kernel over points, for each logarithm of a length scale."""
    rows = np.zeros((len(scaled), len(misfit)))
    np.add.at(rows, trial, misfit)
    by_trial = np.zeros((len(scaled), len(scaled)))
    np.add.at(by_trial, trial, rows.T)
    by_trial *= _slope(between)
    # sum of w_ab (x_a - x_b)^2 over all pairs, with symmetric w
    gradient: np.ndarray = 2 * (by_trial.sum(1) @ scaled**2 - np.einsum("ad,ab,bd->d", scaled, by_trial, scaled))
    return gradient


class CurveModel:
    """The fitted process, conditioned on evaluations.

    Args:
        curves: The evaluations.
        hyperparameters: For recalls with mean 0 and variance 1.
        mean: Mean of the recalls.
        scale: Their standard deviation.
    """

    def __init__(self, curves: Curves, hyperparameters: Hyperparameters, mean: float, scale: float) -> None:
        self.curves, self.hyperparameters, self._mean, self._scale = curves, hyperparameters, mean, scale
        kernel = self._kernel(curves.points[curves.trial], curves.times, curves.trial)
        kernel.flat[:: len(kernel) + 1] += hyperparameters.noise**2 + _JITTER
        self._factor = cholesky(kernel, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), (curves.recalls - mean) / scale, check_finite=False)

    @classmethod
    def fit(cls, curves: Curves, priors: Priors | None = None, max_iterations: int = _MAX_ITERATIONS) -> "CurveModel":
        """Fit the hyperparameters, from the medians of their priors, and condition on the evaluations."""
        mean, scale = float(curves.recalls.mean()), float(curves.recalls.std()) or 1.0
        means, sds = (priors or Priors()).arrays(curves.points.shape[1])
        fitted = minimize(
            negative_log_posterior,
            means,
            (curves, (curves.recalls - mean) / scale, (means, sds)),
            method="L-BFGS-B",
            jac=True,
            bounds=[(each - _BOUND, each + _BOUND) for each in means],
            options={"maxiter": max_iterations},
        )
        return cls(curves, Hyperparameters.of(fitted.x), mean, scale)

    @property
    def noise(self) -> float:
        """Standard deviation of the noise of an evaluation, in percent."""
        return self.hyperparameters.noise * self._scale

    def predict(self, points: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the recall of a new trial at each point and time, without noise."""
        h = self.hyperparameters
        cross = self._kernel(points, times)
        solved = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variances = h.shared**2 + h.point**2 + h.own**2 - (solved * solved).sum(0)
        means: np.ndarray = self._mean + self._scale * (cross @ self._weights)
        sds: np.ndarray = self._scale * np.sqrt(np.maximum(variances, _JITTER))
        return means, sds

    def means_of(self, trial: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Mean of the recall of known trials at given times, by the index of the trial."""
        cross = self._kernel(self.curves.points[trial], times, trial)
        means: np.ndarray = self._mean + self._scale * (cross @ self._weights)
        return means

    def left_out(self) -> np.ndarray:
        """Mean of each evaluation as the model predicts it from the others (Rasmussen and Williams, equation 5.12)."""
        inverse = cho_solve((self._factor, True), np.eye(len(self._weights)), check_finite=False)
        means: np.ndarray = self.curves.recalls - self._scale * self._weights / np.diag(inverse)
        return means

    def slope_of(self, feature: np.ndarray) -> tuple[float, float]:
        """Recall for one unit of a feature of the rows, by generalised least squares; and its standard deviation.

        Args:
            feature: Value of each row.
        """
        solved = cho_solve((self._factor, True), feature, check_finite=False)
        precision = float(feature @ solved)
        if precision <= 0:
            return 0.0, math.inf
        slope = self._scale * float(feature @ self._weights) / precision
        return slope, self._scale / math.sqrt(precision)

    def with_recalls(self, recalls: np.ndarray) -> "CurveModel":
        """The model of other recalls of the same evaluations, with the same hyperparameters."""
        return CurveModel(replace(self.curves, recalls=recalls), self.hyperparameters, self._mean, self._scale)

    def believing(self, points: np.ndarray, trial: np.ndarray, times: np.ndarray) -> "CurveModel":
        """The model after evaluations, not yet made, whose recalls are their means here; only variances change.

        Args:
            points: Coordinates of all trials, the known ones first.
            trial: Index of the trial of each such evaluation.
            times: Its time.
        """
        known = len(self.curves.points)
        recalls = np.empty(len(trial))
        recalls[trial < known] = self.means_of(trial[trial < known], times[trial < known])
        recalls[trial >= known] = self.predict(points[trial[trial >= known]], times[trial >= known])[0]
        rows = self.curves.trial, self.curves.times, self.curves.recalls
        added = (np.concatenate([old, new]) for old, new in zip(rows, (trial, times, recalls), strict=True))
        return CurveModel(Curves(points, *added), self.hyperparameters, self._mean, self._scale)

    def _kernel(self, points: np.ndarray, times: np.ndarray, trial: np.ndarray | None = None) -> np.ndarray:
        """Covariance with the conditioned evaluations; without ``trial`` of new trials."""
        h, known = self.hyperparameters, self.curves
        over_point = matern(_distances(points / h.coordinates, known.points / h.coordinates))[:, known.trial]
        over_time = matern(np.abs(times[:, None] - known.times[None, :]) / h.time)
        amplitudes = h.shared**2 + h.point**2 * over_point
        if trial is not None:
            amplitudes += h.own**2 * (trial[:, None] == known.trial[None, :])
        kernel: np.ndarray = amplitudes * over_time
        return kernel


def log_expected_improvement(means: np.ndarray, sds: np.ndarray, best: float) -> np.ndarray:
    """Logarithm of the expected improvement over ``best``, exact also where it is tiny (arXiv 2310.20708)."""
    z = (means - best) / sds
    low = np.minimum(z, -1.0)
    # phi(z) + z Phi(z) = phi(z) (1 - |z| Phi(z) / phi(z)); far below, 1 - ... is 1 / z^2
    ratio = math.sqrt(math.pi / 2) * erfcx(-low / math.sqrt(2)) * -low
    rest = np.where(low > -1e3, np.log(np.maximum(1 - ratio, 1e-300)), -2 * np.log(-low))
    tail = -low * low / 2 - math.log(2 * math.pi) / 2 + rest
    high = np.maximum(z, -1.0)
    body = np.log(np.exp(-high * high / 2) / math.sqrt(2 * math.pi) + high * np.exp(log_ndtr(high)))
    values: np.ndarray = np.where(z > -1, body, tail) + np.log(sds)
    return values
