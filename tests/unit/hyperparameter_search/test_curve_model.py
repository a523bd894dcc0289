"""The Gaussian process over learning curves, beside naive dense computations."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from rayvldd.hyperparameter_search.curve_model import (
    CurveModel,
    Curves,
    Hyperparameters,
    Priors,
    log_expected_improvement,
    negative_log_posterior,
)


def drawn_curves(num_trials: int = 6, seed: int = 0) -> Curves:
    """Curves that rise towards a height, which depends on the first coordinate."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(size=(num_trials, 3))
    lengths = generator.integers(1, 6, num_trials)
    trial = np.repeat(np.arange(num_trials), lengths)
    times = np.concatenate([np.arange(1, length + 1) / 6 for length in lengths])
    heights = 20 - 30 * (points[:, 0] - 0.4) ** 2
    recalls = heights[trial] * (1 - np.exp(-3 * times)) + generator.normal(0, 0.3, len(trial))
    return Curves(points, trial, times, recalls)


PARAMETERS = Hyperparameters(np.array([0.4, 0.9, 1.7]), 0.8, 1.1, 0.9, 0.4, 0.2)


def covariance(one: tuple[np.ndarray, float, int], other: tuple[np.ndarray, float, int]) -> float:
    """Of two evaluations, each with the point, time and number of its trial, from the definition."""

    def matern(distance: float) -> float:
        r = np.sqrt(5) * distance
        return float((1 + r + r**2 / 3) * np.exp(-r))

    h = PARAMETERS
    over_point = matern(float(np.sqrt((((one[0] - other[0]) / h.coordinates) ** 2).sum())))
    over_time = matern(abs(one[1] - other[1]) / h.time)
    return over_time * (h.shared**2 + h.point**2 * over_point + h.own**2 * (one[2] == other[2]))


def dense(one: list[tuple[np.ndarray, float, int]], other: list[tuple[np.ndarray, float, int]]) -> np.ndarray:
    return np.array([[covariance(a, b) for b in other] for a in one])


def rows_of(curves: Curves) -> list[tuple[np.ndarray, float, int]]:
    return [(curves.points[i], float(t), int(i)) for i, t in zip(curves.trial, curves.times, strict=True)]


def naive_posterior(
    curves: Curves, asked: list[tuple[np.ndarray, float, int]], mean: float, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    known = rows_of(curves)
    inverse = np.linalg.inv(dense(known, known) + PARAMETERS.noise**2 * np.eye(len(known)))
    cross = dense(asked, known)
    variances = np.diag(dense(asked, asked) - cross @ inverse @ cross.T)
    return mean + scale * cross @ inverse @ ((curves.recalls - mean) / scale), scale * np.sqrt(variances)


def test_the_posterior_is_that_of_a_dense_computation() -> None:
    curves, points = drawn_curves(), np.random.default_rng(1).uniform(size=(5, 3))
    model = CurveModel(curves, PARAMETERS, 7.0, 3.0)
    times = np.array([1.0, 0.2, 0.5, 1.0, 0.9])
    means, sds = model.predict(points, times)
    new = [(point, float(time), -1 - number) for number, (point, time) in enumerate(zip(points, times, strict=True))]
    expected_means, expected_sds = naive_posterior(curves, new, 7.0, 3.0)
    assert means == pytest.approx(expected_means, rel=1e-5) and sds == pytest.approx(expected_sds, rel=1e-5)
    continued = [(curves.points[i], 1.0, i) for i in range(6)]
    expected_means, _ = naive_posterior(curves, continued, 7.0, 3.0)
    assert model.means_of(np.arange(6), np.ones(6)) == pytest.approx(expected_means, rel=1e-5)
    assert model.noise == pytest.approx(0.6)


def test_evaluations_at_their_means_change_variances_only() -> None:
    curves, points = drawn_curves(), np.random.default_rng(1).uniform(size=(4, 3))
    model = CurveModel(curves, PARAMETERS, 7.0, 3.0)
    believed = np.concatenate([curves.points, points[:1]])
    after = model.believing(believed, np.array([2, 6]), np.ones(2))
    means, sds = model.predict(points, np.ones(4))
    new_means, new_sds = after.predict(points, np.ones(4))
    assert new_means == pytest.approx(means, rel=1e-4)
    assert np.all(new_sds < sds) and new_sds[0] < 0.8 * sds[0]
    rows = [*rows_of(curves), (curves.points[2], 1.0, 2), (points[0], 1.0, 6)]
    inverse = np.linalg.inv(dense(rows, rows) + PARAMETERS.noise**2 * np.eye(len(rows)))
    cross = dense([(points[3], 1.0, -1)], rows)
    variance = dense([(points[3], 1.0, -1)], [(points[3], 1.0, -1)]) - cross @ inverse @ cross.T
    assert new_sds[3] == pytest.approx(3.0 * np.sqrt(variance[0, 0]), rel=1e-5)


def test_the_objective_of_the_fit_and_its_gradient() -> None:
    curves = drawn_curves()
    values = (curves.recalls - curves.recalls.mean()) / curves.recalls.std()
    h = PARAMETERS
    logarithms = np.log([*h.coordinates, h.time, h.shared, h.point, h.own, h.noise])
    priors = Priors().arrays(3)
    value, gradient = negative_log_posterior(logarithms, curves, values, priors)
    known = rows_of(curves)
    kernel = dense(known, known) + h.noise**2 * np.eye(len(known))
    likelihood = multivariate_normal(np.zeros(len(known)), kernel).logpdf(values) + len(known) * np.log(2 * np.pi) / 2
    assert value == pytest.approx(-likelihood + (((logarithms - priors[0]) / priors[1]) ** 2).sum() / 2, rel=1e-5)
    numeric = approx_fprime(logarithms, lambda at: negative_log_posterior(at, curves, values, priors)[0], 1e-6)
    assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_a_fit_finds_the_coordinate_that_matters_and_predicts() -> None:
    curves = drawn_curves(40)
    model = CurveModel.fit(curves)
    assert model.hyperparameters.coordinates[0] < 0.6 * model.hyperparameters.coordinates[1:].min()
    points = np.random.default_rng(2).uniform(size=(200, 3))
    means, sds = model.predict(points, np.ones(200))
    truth = (20 - 30 * (points[:, 0] - 0.4) ** 2) * (1 - np.exp(-3))
    assert np.sqrt(np.mean((means - truth) ** 2)) < 0.3 * truth.std()
    assert 0.6 < np.mean(np.abs(means - truth) < 2 * np.hypot(sds, model.noise)) <= 1


def test_equal_recalls_are_fitted_too() -> None:
    curves = drawn_curves()
    flat = Curves(curves.points, curves.trial, curves.times, np.full(len(curves.trial), 5.0))
    means, sds = CurveModel.fit(flat).predict(curves.points, np.ones(6))
    assert means == pytest.approx(np.full(6, 5.0)) and np.all(sds > 0)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    trial = np.repeat([0, 1, 2], [10, 2, 30])
    times = np.concatenate([np.arange(10), np.arange(2), np.arange(30)]).astype(float)
    curves = Curves(np.zeros((3, 1)), trial, times, times).thinned(20)
    counts = np.bincount(curves.trial).tolist()
    assert sum(counts) <= 20 and counts == [9, 2, 9]
    assert [times[trial == i].max() for i in range(3)] == [
        curves.times[curves.trial == i].max() for i in range(3)
    ] and all(np.diff(curves.times[curves.trial == i]).min() > 0 for i in range(3))
    assert Curves(np.zeros((3, 1)), trial, times, times).thinned(42).times.tolist() == times.tolist()


def test_log_expected_improvement_against_sampling() -> None:
    generator = np.random.default_rng(0)
    means, sds = np.array([1.0, 0.0, -2.0, 3.0]), np.array([1.0, 0.5, 2.0, 0.1])
    drawn = generator.normal(means, sds, size=(400_000, 4))
    sampled = np.log(np.maximum(drawn - 0.5, 0).mean(0))
    assert log_expected_improvement(means, sds, 0.5) == pytest.approx(sampled, abs=0.02)


def test_log_expected_improvement_far_below_the_best() -> None:
    z = np.array([-1.0001, -0.9999, -5.0, -40.0, -999.0, -1001.0, -1e6])
    found = log_expected_improvement(z, np.ones(len(z)), 0.0)
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    assert found[2] == pytest.approx(np.log(5.346e-8), abs=1e-3)  # from tables of the normal loss function
    leading = -(z[3:] ** 2) / 2 - np.log(2 * np.pi) / 2 - 2 * np.log(-z[3:])
    assert found[3:] == pytest.approx(leading, rel=1e-5)


def test_left_out_evaluations_are_predicted_from_the_others() -> None:
    curves = drawn_curves()
    model = CurveModel(curves, PARAMETERS, 10.0, 4.0)
    for row, found in enumerate(model.left_out().tolist()):
        others = np.arange(len(curves.trial)) != row
        rest = Curves(curves.points, curves.trial[others], curves.times[others], curves.recalls[others])
        at = CurveModel(rest, PARAMETERS, 10.0, 4.0).means_of(curves.trial[[row]], curves.times[[row]])
        assert found == pytest.approx(at[0], abs=1e-5)


def test_the_slope_of_a_feature_is_that_of_least_squares() -> None:
    curves = drawn_curves()
    rows = list(zip(curves.points[curves.trial], curves.times, curves.trial, strict=True))
    kernel = np.array([[covariance(one, other) for other in rows] for one in rows])
    kernel += (PARAMETERS.noise**2 + 1e-8) * np.eye(len(rows))
    feature = np.sin(np.arange(len(rows)))
    model = CurveModel(curves, PARAMETERS, 10.0, 4.0)
    inverse = np.linalg.inv(kernel)
    precision = feature @ inverse @ feature
    slope, sd = model.slope_of(feature)
    assert slope == pytest.approx(feature @ inverse @ (curves.recalls - 10.0) / precision)
    assert sd == pytest.approx(4.0 / np.sqrt(precision))
    shifted = model.with_recalls(curves.recalls + 3.0 * feature)
    assert shifted.slope_of(feature)[0] == pytest.approx(slope + 3.0)
    assert model.slope_of(np.zeros(len(rows)))[1] == np.inf
