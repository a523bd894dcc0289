"""A model of the runs of a recorded task, which answers at any point: recalls, seconds and failures.

It is made of forests of randomised trees (Geurts et al., Machine Learning 63, 2006), and so has nothing in common with
the Gaussian process of the sampler ``curves``, whose searches would gain from a world of its own kind.

A world is one possible truth: forests that are fitted to a bootstrap sample of the runs. What the point of a run does
not explain is drawn once for each point, as the residuals of a whole curve at a time, so that a run that is better than
its point stays so. The residuals are those of runs that a tree was not fitted to.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from recorded_responses import Response, Table
from sklearn.ensemble import ExtraTreesRegressor

from rayvldd.config.domains import SettingValue
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates

_TREES = 40
"""Of a forest."""
_NEAREST_FAILED = 3
"""A trial that fails goes like one of so many recorded failures that are nearest to it."""


@dataclass(frozen=True)
class _Fitted:
    """Forests of one sample of runs."""

    recalls: ExtraTreesRegressor
    """Of runs that did not fail, one output for each evaluation."""
    log_seconds: ExtraTreesRegressor
    """Of whole runs that did not fail."""
    fails: ExtraTreesRegressor
    """1 for a run that failed."""


class Surrogate:
    """The model of some runs of a task.

    Args:
        table: The task.
        rows: Indexes of the runs; at least two of them did not fail.
    """

    def __init__(self, table: Table, rows: Sequence[int]) -> None:
        self.coordinates = SpaceCoordinates(table.study.space)
        self.runs = [table.responses[row] for row in rows]
        self.at_points = self.inputs([run.point for run in self.runs])
        self.failed = np.array([bool(run.failed) for run in self.runs])
        self.whole = np.flatnonzero(~self.failed)
        self.recalls = np.array([self.runs[row].val_mean_recalls for row in self.whole])
        self.log_seconds = np.log([self.runs[row].seconds_in_all for row in self.whole])
        self.outer_steps = self.runs[self.whole[0]].outer_steps
        whole = [self.runs[row] for row in self.whole]
        self.shares = np.mean([np.array(run.seconds) / run.seconds_in_all for run in whole], 0)
        """Seconds until each evaluation, as a share of those of the whole run."""

    def inputs(self, points: Sequence[Mapping[str, SettingValue]]) -> np.ndarray:
        """Coordinates of points."""
        return self.coordinates.coordinates(*self.coordinates.units_of(points))

    def fit(self, seed: int, sample: np.ndarray | None = None) -> _Fitted:
        """Forests of a sample of the runs.

        Args:
            seed: Seed of the trees.
            sample: Indexes among the runs, with repetitions; default: all.
        """
        counts = np.bincount(np.arange(len(self.runs)) if sample is None else sample, minlength=len(self.runs))

        def forest(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> ExtraTreesRegressor:
            made = ExtraTreesRegressor(_TREES, bootstrap=True, oob_score=sample is None, random_state=seed)
            used = weights > 0
            return made.fit(inputs[used], targets[used], weights[used])

        at_whole, weights = self.at_points[self.whole], counts[self.whole]
        return _Fitted(
            forest(at_whole, self.recalls, weights),
            forest(at_whole, self.log_seconds, weights),
            forest(self.at_points, self.failed.astype(float), counts),
        )

    @cached_property
    def residuals(self) -> tuple[np.ndarray, np.ndarray]:
        """What is added to recalls and logarithms of seconds, one row for each run that did not fail."""
        forests = self.fit(0)
        left_out = self.recalls - forests.recalls.oob_prediction_
        seconds = self.log_seconds - forests.log_seconds.oob_prediction_
        return left_out - left_out.mean(0), seconds - seconds.mean()

    def sample(self, seed: int) -> np.ndarray:
        """A bootstrap sample of the runs, with at least two that did not fail."""
        generator = np.random.default_rng([seed, 1])
        while True:
            drawn = generator.integers(0, len(self.runs), len(self.runs))
            if len(set(drawn[~self.failed[drawn]].tolist())) > 1:
                return drawn


class World:
    """One possible truth, which answers the trials of a search at their own points.

    Args:
        surrogate: The model.
        seed: Which world.
    """

    def __init__(self, surrogate: Surrogate, seed: int) -> None:
        self._surrogate, self._seed = surrogate, seed
        self._forests = surrogate.fit(seed, surrogate.sample(seed))

    def nearest(self, point: Mapping[str, SettingValue]) -> Response:
        """The answer at a point; the same one each time."""
        return self.answers([point])[0]

    def answers(self, points: Sequence[Mapping[str, SettingValue]]) -> list[Response]:
        """The answer at each point."""
        inputs, forests = self._surrogate.inputs(points), self._forests
        predicted = (forests.recalls, forests.log_seconds, forests.fails)
        rows = zip(points, inputs, *(forest.predict(inputs) for forest in predicted), strict=True)
        return [self._answer(*row) for row in rows]

    def _answer(
        self, point: Mapping[str, SettingValue], at: np.ndarray, recalls: np.ndarray, log_seconds: float, fails: float
    ) -> Response:
        model = self._surrogate
        generator = np.random.default_rng([self._seed, 2, zlib.crc32(repr(sorted(point.items())).encode())])
        if generator.uniform() < fails:
            failed = np.flatnonzero(model.failed)
            apart = np.square(model.at_points[failed] - at).sum(1)
            return model.runs[failed[generator.choice(np.argsort(apart, kind="stable")[:_NEAREST_FAILED])]]
        of_recalls, of_seconds = model.residuals
        row = int(generator.integers(len(of_recalls)))
        curve = np.maximum(recalls + of_recalls[row], 0)
        seconds = math.exp(log_seconds + of_seconds[int(generator.integers(len(of_seconds)))])
        return Response(
            point=dict(point),
            failed="",
            outer_steps=model.outer_steps,
            seconds=tuple((seconds * model.shares).tolist()),
            val_mean_recalls=tuple(curve.tolist()),
            seconds_evaluating=0.0,
            seconds_in_all=seconds,
            compared=(),
        )

    def at_random(self, number: int) -> list[Response]:
        """The answers at random points of the space."""
        coordinates = self._surrogate.coordinates
        units = coordinates.draw(np.random.default_rng([self._seed, 3]), number)
        return self.answers([coordinates.point_of(row) for row in units])

    @property
    def forests(self) -> _Fitted:
        """What the point alone explains."""
        return self._forests
