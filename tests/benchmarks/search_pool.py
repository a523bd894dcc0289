"""Searches over a pool of recorded runs: each proposal is the run that the sampler itself ranks first.

The sampler ranks the points of the pool that it has not tried, by its own acquisition, so that every answer is a run
at exactly the proposed point. ``curves`` and the Gaussian process rank by their expected improvement and TPE by its
ratio of densities; random search and the first trials of the others take a run at random.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna._gp.acqf import BaseAcquisitionFunc
from optuna._gp.search_space import SearchSpace
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import FrozenTrial
from pydantic import JsonValue
from recorded_responses import Response, Table
from search_replay import Curve, Replay

from rayvldd.config.domains import SettingValue
from rayvldd.config.setting import flat_settings
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.curves_sampler import Acquisition, CurvesSampler
from rayvldd.hyperparameter_search.descriptors import Descriptors
from rayvldd.hyperparameter_search.learned_sources import LearnedSources, start_points
from rayvldd.hyperparameter_search.optuna_samplers import OptunaSampler, start_trials
from rayvldd.hyperparameter_search.optuna_trials import distribution_of, typed_point
from rayvldd.hyperparameter_search.source_model import Outcome, Source, point_by_name
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates
from rayvldd.hyperparameter_search.strategy import SampledSearch, make_stopping_rule
from rayvldd.hyperparameter_search.tpe import Tpe
from rayvldd.randomness import sampler_seed

SAMPLERS = ("curves", "tpe", "gp", "random")
"""The samplers that can rank a pool."""


class Pool:
    """The runs of a table without conditional settings, by point."""

    def __init__(self, table: Table) -> None:
        self.table, self.space = table, table.study.space
        self.points = [typed_point(response.point, self.space.domains) for response in table.responses]
        self._at = {
            self.space.key_of(point): response for point, response in zip(self.points, table.responses, strict=True)
        }
        self.distributions: dict[str, BaseDistribution] = {
            key: distribution_of(domain) for key, domain in self.space.drawn.items()
        }

    @cached_property
    def units(self) -> np.ndarray:
        """Units of all points."""
        return SpaceCoordinates(self.space).units_of(self.points)[0]

    @cached_property
    def best_recall(self) -> float:
        """Of all runs that did not fail."""
        return max(response.best for response in self.table.responses if not response.failed)

    def nearest(self, point: Mapping[str, SettingValue]) -> Response:
        """The run at exactly this point."""
        return self._at[self.space.key_of(point)]

    def nearest_point(self, point: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
        """The point of the pool that is nearest to any point of the space."""
        return self.points[int(np.argmin(self.table.distances(point)))]

    def untried(self, study: optuna.Study, trial: FrozenTrial) -> np.ndarray:
        """Indexes of the runs that no other trial has; of all runs once each was tried."""
        tried = {
            repr(sorted(one.params.items())) for one in study.get_trials(deepcopy=False) if one.number != trial.number
        }
        left = [i for i, point in enumerate(self.points) if repr(sorted(point.items())) not in tried]
        return np.array(left or range(len(self.points)))

    def at_random(self, study: optuna.Study, trial: FrozenTrial, seed: int) -> dict[str, Any]:
        """The point of an untried run."""
        generator = np.random.default_rng(sampler_seed(seed, trial.number))
        return dict(self.points[int(generator.choice(self.untried(study, trial)))])


class _PoolCurves(CurvesSampler):
    """``curves`` with the runs of a pool as candidates."""

    def __init__(self, pool: Pool, study: Study) -> None:
        last = study.distillation.outer_steps
        super().__init__(study.space, lambda point: last, last, seed=study.seed, num_start_trials=start_trials(study))
        self._pool, self._random, self._untried, self._chosen = pool, study.seed, np.arange(0), 0

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        super().infer_relative_search_space(study, trial)
        return dict(self._pool.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not self.uses_model:
            return self._pool.at_random(study, trial, self._random)
        self._untried = self._pool.untried(study, trial)
        super().sample_relative(study, trial, search_space)
        return dict(self._pool.points[self._chosen])

    def best_units(self, acquisition: Acquisition, trial: FrozenTrial) -> np.ndarray:
        candidates = self._pool.units[self._untried]
        self._chosen = int(self._untried[np.argmax(acquisition(candidates))])
        best: np.ndarray = self._pool.units[self._chosen]
        return best


class _PoolTpe(Tpe):
    """The shipped TPE with the runs of a pool in place of draws from its density of good points."""

    def __init__(self, pool: Pool, study: Study) -> None:
        super().__init__(study.seed, start_trials(study))
        self._pool, self._random, self._candidates = pool, study.seed, dict[str, np.ndarray]()
        self._parzen_estimator_cls = self._over_the_pool  # type: ignore[assignment]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        super().infer_relative_search_space(study, trial)
        return dict(self._pool.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        points = [self._pool.points[i] for i in self._pool.untried(study, trial)]
        self._candidates = {
            key: np.array([distribution.to_internal_repr(point[key]) for point in points])
            for key, distribution in self._pool.distributions.items()
        }
        found = super().sample_relative(study, trial, search_space)
        return found or self._pool.at_random(study, trial, self._random)

    def _over_the_pool(self, *arguments: Any) -> _ParzenEstimator:
        estimator = _ParzenEstimator(*arguments)
        estimator.sample = lambda rng, size: self._candidates  # type: ignore[method-assign]
        return estimator


class _PoolGp(optuna.samplers.GPSampler):
    """Optuna's Gaussian process with the runs of a pool in place of its search for the best point."""

    def __init__(self, pool: Pool, study: Study) -> None:
        super().__init__(seed=sampler_seed(study.seed, 0), n_startup_trials=start_trials(study))
        self._pool, self._random, self._untried, self._chosen = pool, study.seed, np.arange(0), 0
        runs = [optuna.trial.create_trial(params=p, distributions=pool.distributions, value=0.0) for p in pool.points]
        self._rows = SearchSpace(pool.distributions).get_normalized_params(runs)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._pool.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._untried = self._pool.untried(study, trial)
        if not super().sample_relative(study, trial, search_space):
            return self._pool.at_random(study, trial, self._random)
        return dict(self._pool.points[self._chosen])

    def _optimize_acqf(self, acqf: BaseAcquisitionFunc, best_params: np.ndarray | None) -> np.ndarray:
        values = acqf.eval_acqf_no_grad(self._rows[self._untried])
        self._chosen = int(self._untried[np.argmax(values)])
        best: np.ndarray = self._rows[self._chosen]
        return best


class _PoolRandom(optuna.samplers.RandomSampler):
    """An untried run at random."""

    def __init__(self, pool: Pool, study: Study) -> None:
        super().__init__(seed=study.seed)
        self._pool, self._random = pool, study.seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._pool.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._pool.at_random(study, trial, self._random)


_MAKE: dict[str, Callable[[Pool, Study], optuna.samplers.BaseSampler]] = {
    "curves": _PoolCurves,
    "tpe": _PoolTpe,
    "gp": _PoolGp,
    "random": _PoolRandom,
}


def source_of(name: str, pool: Pool, other: Study) -> Source:
    """The runs of a pool as an earlier study of another study."""
    study, space = pool.table.study, other.space
    constants = flat_settings(study.model_dump(mode="json", exclude={"search"}))
    settings = ({**constants, **{key: _as_json(value) for key, value in point.items()}} for point in pool.points)
    found = [(point_by_name(each, space), point) for each, point in zip(settings, pool.points, strict=True)]
    usable = [(at, pool.nearest(point)) for at, point in found if at is not None]
    return Source(
        name,
        [at for at, _ in usable],
        [_outcome(one) for _, one in usable],
        Descriptors.of_study(study).distance(Descriptors.of_study(other)),
    )


def _as_json(value: SettingValue) -> JsonValue:
    return [*value] if isinstance(value, tuple) else value


def _outcome(response: Response) -> Outcome:
    curve = zip(response.outer_steps, response.val_mean_recalls, strict=True)
    return Outcome({step: recall for step, recall in curve if step > 0}, bool(response.failed))


def study_of(pool: Pool, seed: int, workers: int, published: bool, learned: LearnedSources | None = None) -> Study:
    """The study of a pool with another seed and number of workers; its first points are the nearest runs.

    Args:
        pool: The runs.
        seed: Seed of the study.
        workers: Concurrent trials.
        published: Whether the study begins with its published points.
        learned: Earlier studies, whose points come first.
    """
    study = pool.table.study
    first = study.initial_points() if published else []
    if learned is not None:
        first = start_points(first, learned, candidates=pool.points)
    points = tuple(pool.nearest_point(point) for point in first)
    search = study.search.model_copy(update={"max_concurrent": workers, "initial_points": points})
    return study.model_copy(update={"seed": seed, "search": search})


def pool_search(
    pool: Pool, sampler: str, study: Study, trial_seconds: float, learned: LearnedSources | None = None
) -> Curve:
    """One search until a number of trial-seconds is spent, or the best run of the pool is found.

    Args:
        pool: The runs.
        sampler: One of :data:`SAMPLERS`.
        study: The study.
        trial_seconds: When it ends.
        learned: Earlier studies, for ``curves``.
    """
    optuna_sampler = _MAKE[sampler](pool, study)
    if learned is not None and isinstance(optuna_sampler, CurvesSampler):
        optuna_sampler.learn_from(learned)
    made = OptunaSampler(study, optuna_sampler, [], [], ranks_pruned=sampler != "gp", raw=sampler == "curves")
    strategy = SampledSearch(study, made, make_stopping_rule(study), [])
    return Replay(pool, study, strategy).run(trial_seconds, pool.best_recall)
