"""Samplers of other tools behind the sampler's protocol, for ``search_rivals.py``: SMAC, and three of syne-tune.

They need the extra ``rivals`` (``pip install '.[rivals]'``). Each one searches the settings of a study without
conditions. Early stopping is that of the study, as for our own samplers.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np
from smac import HyperparameterOptimizationFacade, Scenario
from smac.runhistory.dataclasses import TrialInfo, TrialValue
from smac.runhistory.enumerations import StatusType
from syne_tune import config_space
from syne_tune.optimizer.schedulers.searchers.last_value_multi_fidelity_searcher import LastValueMultiFidelitySearcher

from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, FloatDomain, IntDomain, SettingValue
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.optuna_samplers import start_trials
from rayvldd.hyperparameter_search.strategy import Sampler
from rayvldd.randomness import sampler_seed
from rayvldd.records.trial import Trial

Point = dict[str, SettingValue]


class SyneTune:
    """A searcher of syne-tune that models the last evaluation of each trial, as its BOHB, BORE and CQR do.

    A failed trial is told as a recall of 0. The evaluation before the first step, which all trials share, is not told.

    Args:
        study: The study; its number of start trials is that of the searcher's random points.
        kind: Name of the searcher in syne-tune: ``kde`` (BOHB's model), ``bore`` or ``cqr``.
    """

    def __init__(self, study: Study, kind: str) -> None:
        self._study = _without_conditions(study)
        self._searcher = LastValueMultiFidelitySearcher(
            {key: _syne_tune_domain(domain) for key, domain in study.space.drawn.items()},
            random_seed=study.seed,
            num_init_random_draws=start_trials(study),
            searcher=kind,
        )
        self._told: dict[str, int] = {}
        self._numbers: dict[str, int] = {}

    def propose(self, trial_id: str, given: Point, history: Collection[Trial]) -> Point:
        """Tell the new evaluations, and ask for a point unless it is given."""
        for trial in history:
            self._tell(trial)
        number = self._numbers.setdefault(trial_id, len(self._numbers))
        np.random.seed(sampler_seed(self._study.seed, number))  # the searcher of BOHB draws from numpy's own generator
        return given or _point_of(self._study, self._searcher.suggest())

    def repeated(self, trial_id: str, earlier: Trial | None) -> None:
        """Nothing: the searcher has the outcome of that point already."""

    def _tell(self, trial: Trial) -> None:
        recalls = [(one.outer_step, one.metrics[VAL_MEAN_RECALL]) for one in trial.evaluations if one.outer_step > 0]
        if trial.state == "failed":
            recalls.append((trial.outer_step + 1, 0.0))
        for step, recall in recalls:
            if step > self._told.get(trial.trial_id, 0):
                config = _choices_as_text(self._study, trial.point)
                self._searcher.on_trial_result(self._numbers[trial.trial_id], config, -recall, step)
                self._told[trial.trial_id] = step


def _syne_tune_domain(domain: Domain) -> object:
    if isinstance(domain, ChoiceDomain):
        return config_space.choice([str(number) for number in range(len(domain.values))])
    if isinstance(domain, FloatDomain | IntDomain) and domain.step:
        size = round((domain.high - domain.low) / domain.step) + 1
        return config_space.finrange(domain.low, domain.high, size, cast_int=isinstance(domain, IntDomain))
    if isinstance(domain, IntDomain):
        return (config_space.lograndint if domain.log else config_space.randint)(domain.low, domain.high)
    assert isinstance(domain, FloatDomain)
    return (config_space.loguniform if domain.log else config_space.uniform)(domain.low, domain.high)


class Smac:
    """SMAC's facade for hyperparameters: a random forest and expected improvement of the logarithm.

    An ended trial is told with its best recall so far, and a failed one with 0. SMAC has no running trials.

    Args:
        study: The study; its number of start trials is that of SMAC's first points.
        folder: Where SMAC writes its own records.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self._study = _without_conditions(study)
        self._space = ConfigSpace.ConfigurationSpace(seed=study.seed)
        self._space.add([_smac_domain(key, domain) for key, domain in study.space.drawn.items()])
        scenario = Scenario(
            self._space, deterministic=True, n_trials=10**6, seed=study.seed, output_directory=folder, crash_cost=0.0
        )
        facade = HyperparameterOptimizationFacade
        self._smac = facade(
            scenario,
            lambda config, seed: 0.0,  # never called: we ask and tell
            initial_design=facade.get_initial_design(scenario, n_configs=start_trials(study), max_ratio=1.0),
            config_selector=facade.get_config_selector(scenario, retrain_after=1),  # 8 by default
            logging_level=False,
            overwrite=True,
        )
        self._open: dict[str, TrialInfo] = {}

    def propose(self, trial_id: str, given: Point, history: Collection[Trial]) -> Point:
        """Tell the trials that have ended, and ask for a point unless it is given."""
        for trial in history:
            if trial.trial_id in self._open and trial.state != "running":
                self._tell(trial, self._open.pop(trial.trial_id))
        if given:
            config = ConfigSpace.Configuration(self._space, _choices_as_text(self._study, given))
            self._open[trial_id] = TrialInfo(config, seed=0)
            return given
        self._open[trial_id] = asked = self._smac.ask()
        return _point_of(self._study, dict(asked.config))

    def repeated(self, trial_id: str, earlier: Trial | None) -> None:
        """Forget the proposal; SMAC does not ask for the same configuration again."""
        self._open.pop(trial_id)

    def _tell(self, trial: Trial, info: TrialInfo) -> None:
        failed = trial.state == "failed"
        best = 0.0 if failed else max(one.metrics[VAL_MEAN_RECALL] for one in trial.evaluations)
        value = TrialValue(-best, status=StatusType.CRASHED if failed else StatusType.SUCCESS)
        self._smac.tell(info, value, save=False)


def _smac_domain(key: str, domain: Domain) -> ConfigSpace.hyperparameters.Hyperparameter:
    if isinstance(domain, ChoiceDomain):
        return ConfigSpace.Categorical(key, [str(number) for number in range(len(domain.values))])
    if isinstance(domain, FloatDomain | IntDomain) and domain.step:
        size = round((domain.high - domain.low) / domain.step) + 1
        return ConfigSpace.OrdinalHyperparameter(key, [domain.low + domain.step * number for number in range(size)])
    if isinstance(domain, IntDomain):
        return ConfigSpace.Integer(key, (domain.low, domain.high), log=domain.log)
    assert isinstance(domain, FloatDomain)
    return ConfigSpace.Float(key, (domain.low, domain.high), log=domain.log)


def _without_conditions(study: Study) -> Study:
    if conditional := [key for key, domain in study.space.domains.items() if domain.when]:
        raise ValueError(f"settings under conditions are not passed on to this sampler: {', '.join(conditional)}")
    return study


def _choices_as_text(study: Study, point: Mapping[str, SettingValue]) -> dict[str, Any]:
    """The drawn settings of a point; a choice is the number of its value, as text."""
    domains = study.space.drawn
    return {
        key: str(domain.values.index(point[key])) if isinstance(domain, ChoiceDomain) else point[key]
        for key, domain in domains.items()
    }


def _point_of(study: Study, config: Mapping[str, Any]) -> Point:
    """The point of a configuration, in plain types of Python and inside of the bounds."""

    def value(key: str, domain: Domain) -> SettingValue:
        if isinstance(domain, FixedDomain):
            return domain.value
        if isinstance(domain, ChoiceDomain):
            return domain.values[int(config[key])]
        assert isinstance(domain, FloatDomain | IntDomain)
        within = np.clip(config[key], domain.low, domain.high)
        return int(within) if isinstance(domain, IntDomain) else float(within)

    return study.space.point(value)


def rivals(folder: Path) -> dict[str, Callable[[Study], Sampler]]:
    """Factories of the samplers by name.

    A factory raises ``ValueError`` for a study with conditional settings.

    Args:
        folder: Where SMAC writes its own records.
    """
    return {
        "smac": lambda study: Smac(study, folder),
        "bohb": lambda study: SyneTune(study, "kde"),
        "bore": lambda study: SyneTune(study, "bore"),
        "cqr": lambda study: SyneTune(study, "cqr"),
    }
