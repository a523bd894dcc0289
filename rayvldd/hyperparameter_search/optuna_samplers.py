"""Optuna's samplers for the domains of a study.

Each domain is converted to the Optuna distribution with the same inclusive bounds. The trials are added to an Optuna
study from the records.
"""

import warnings
from collections.abc import Callable, Collection, Sequence

import optuna

from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, FloatDomain, SettingValue
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.optuna_trials import (
    as_optuna_trial,
    directions_of,
    intermediate_values,
    optuna_choices,
    optuna_value,
    optuna_values,
)
from rayvldd.hyperparameter_search.strategy import Sampler, next_number
from rayvldd.randomness import sampler_seed
from rayvldd.records.trial import Trial


class OptunaSampler:
    """An Optuna sampler that receives the trials from the records.

    A failed trial is added as pruned without a value: Optuna's samplers ignore trials in the state FAIL and would
    propose diverging settings repeatedly, while TPE ranks a trial that was pruned without a value below all others.

    Args:
        study: Search space and objectives.
        sampler: Optuna sampler that proposes points.
        known: The trials of the study's earlier sessions.
        earlier: Trials of other studies at points of this space.
    """

    def __init__(
        self,
        study: Study,
        sampler: optuna.samplers.BaseSampler,
        known: Collection[Trial],
        earlier: Sequence[Trial],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study, self._space = study, study.space
        self._optuna = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            directions=directions_of(study),
        )
        ended = sorted((trial for trial in known if trial.state != "running"), key=lambda trial: trial.number)
        for trial in [*earlier, *ended]:
            self._optuna.add_trial(as_optuna_trial(trial, study))
        self._open: dict[str, optuna.trial.Trial] = {}
        """Proposed trials that had not ended when the history was last read."""

    def propose(
        self, trial_id: str, given: dict[str, SettingValue], history: Collection[Trial]
    ) -> dict[str, SettingValue]:
        """Update Optuna's study from the history, and let Optuna choose the settings that are not given."""
        self._tell(history)
        if given:
            self._optuna.enqueue_trial({key: optuna_value(value) for key, value in given.items()})
        self._open[trial_id] = trial = self._optuna.ask()
        return suggest(trial, self._space)

    def repeated(self, trial_id: str, earlier: Trial | None) -> None:
        """Add the outcome of the trial at the same point, once more; of one that has not ended there is none."""
        optuna_trial = self._open.pop(trial_id)
        if earlier is None or earlier.state == "running":
            self._optuna.tell(optuna_trial, state=optuna.trial.TrialState.FAIL)  # which samplers ignore
        else:
            self._tell_one(optuna_trial, earlier)

    def optuna_trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials of the Optuna study."""
        return self._optuna.get_trials()

    def _tell(self, history: Collection[Trial]) -> None:
        for trial in history:
            if trial.state == "running" or trial.trial_id not in self._open:
                continue
            self._tell_one(self._open.pop(trial.trial_id), trial)

    def _tell_one(self, optuna_trial: optuna.trial.Trial, trial: Trial) -> None:
        values = optuna_values(trial, self._study)
        for step, value in intermediate_values(trial, self._study).items():
            optuna_trial.report(value, step)
        state = optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.PRUNED
        self._optuna.tell(optuna_trial, values, state=state)


def suggest(trial: optuna.trial.BaseTrial, space: Space) -> dict[str, SettingValue]:
    """Let an Optuna trial choose a value for each active setting, in the order of their conditions."""
    return space.point(lambda key, domain: _suggest_one(trial, key, domain))


def _suggest_one(trial: optuna.trial.BaseTrial, key: str, domain: Domain) -> SettingValue:
    value: SettingValue
    if isinstance(domain, FixedDomain):
        value = domain.value
    elif isinstance(domain, ChoiceDomain):
        choices = optuna_choices(domain)
        value = domain.values[choices.index(trial.suggest_categorical(key, choices))]
    elif isinstance(domain, FloatDomain):
        value = trial.suggest_float(key, domain.low, domain.high, log=domain.log, step=domain.step)
    else:
        value = trial.suggest_int(key, domain.low, domain.high, log=domain.log, step=domain.step)
    return value


def make_tpe(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """Tree-structured Parzen estimator.

    It models all settings jointly, with one model for each group of conditional settings that occur in the same points
    (``group``). Running trials count as bad ones (constant liar), so that concurrent trials do not use the same point.
    """

    def make(seed: int, starts: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=starts, multivariate=True, group=True, constant_liar=True
        )

    return _made(make, study, known, earlier)


def make_random(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """Independent random samples."""
    return _made(lambda seed, _: optuna.samplers.RandomSampler(seed=seed), study, known, earlier)


def make_gp(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """A Gaussian process."""
    return _made(
        lambda seed, starts: optuna.samplers.GPSampler(seed=seed, n_startup_trials=starts), study, known, earlier
    )


def make_cmaes(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """CMA-ES."""

    def make(seed: int, starts: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=starts, warn_independent_sampling=False)

    return _made(make, study, known, earlier)


def make_qmc(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """A scrambled Sobol sequence."""

    def make(seed: int, _: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)

    return _made(make, study, known, earlier)


def _made(
    make: Callable[[int, int], optuna.samplers.BaseSampler],
    study: Study,
    known: Collection[Trial],
    earlier: Sequence[Trial],
) -> OptunaSampler:
    """The sampler, with a seed that depends on the number of known trials.

    Samplers use their models earlier than after ten trials, Optuna's default (``search.num_start_trials``), because
    studies are small and begin with published settings.
    """
    starts = study.search.num_start_trials or min(10, max(3, round(study.search.num_trials / 5)))
    with warnings.catch_warnings():
        # Optuna marks options that it may still rename; the version range of the package protects against that.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = make(sampler_seed(study.seed, next_number(known)), starts)
    return OptunaSampler(study, sampler, known, earlier)
