"""Optuna's samplers over the study's own domains.

Each domain becomes the Optuna distribution with the same inclusive bounds. What Optuna knows of trials is entered into
a study of its own from the records.
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import cast

import optuna

from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, FloatDomain, Scalar
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.optuna_trials import as_optuna_trial, directions_of, intermediate_values, told_values
from rayvldd.hyperparameter_search.strategy import Sampler, next_number
from rayvldd.randomness import sampler_seed
from rayvldd.records.trial import Trial


class OptunaSampler:
    """A sampler of Optuna, which is told of trials as the records have them.

    Of a failed trial it is told no value: Optuna's samplers forget trials in the state FAIL and would propose diverging
    settings again and again; TPE ranks one that was pruned without a value below all others.

    Args:
        study: What is searched, and for what.
        sampler: Proposes points.
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
        """Trials that were proposed here and had not ended when the history was last read."""

    def propose(self, trial_id: str, given: dict[str, Scalar], history: Collection[Trial]) -> dict[str, Scalar]:
        """Enter what has happened, and let Optuna choose what is not given."""
        self._tell(history)
        if given:
            self._optuna.enqueue_trial(given)
        self._open[trial_id] = asked = self._optuna.ask()
        return suggest(asked, self._space)

    def optuna_trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials as Optuna knows them."""
        return self._optuna.get_trials()

    def _tell(self, history: Collection[Trial]) -> None:
        for trial in history:
            if trial.state == "running" or trial.trial_id not in self._open:
                continue
            asked, values = self._open.pop(trial.trial_id), told_values(trial, self._study)
            for step, value in intermediate_values(trial, self._study).items():
                asked.report(value, step)
            state = optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.PRUNED
            self._optuna.tell(asked, values, state=state)


def suggest(trial: optuna.trial.BaseTrial, space: Space) -> dict[str, Scalar]:
    """Let an Optuna trial choose a value for each setting that is searched where the others already are."""
    return space.point(lambda key, domain: _suggest_one(trial, key, domain))


def _suggest_one(trial: optuna.trial.BaseTrial, key: str, domain: Domain) -> Scalar:
    value: Scalar
    if isinstance(domain, FixedDomain):
        value = domain.value
    elif isinstance(domain, ChoiceDomain):
        value = cast(Scalar, trial.suggest_categorical(key, domain.values))
    elif isinstance(domain, FloatDomain):
        value = trial.suggest_float(key, domain.low, domain.high, log=domain.log, step=domain.step)
    else:
        value = trial.suggest_int(key, domain.low, domain.high, log=domain.log, step=domain.step)
    return value


def make_tpe(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """Tree-structured Parzen estimators.

    They model all settings together, and each group of conditional ones that are in the same points (``group``). A
    running trial counts as a bad one (constant liar), so that trials side by side do not try the same point.
    """

    def make(seed: int, starts: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=starts, multivariate=True, group=True, constant_liar=True
        )

    return _made(make, study, known, earlier)


def make_random(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """Independent draws."""
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
    """The sampler, seeded for the moment when so many trials are known.

    Samplers model earlier than after ten trials, which is Optuna's default (``search.num_start_trials``): studies are
    small here, and begin with published settings.
    """
    starts = study.search.num_start_trials or min(10, max(3, round(study.search.num_trials / 5)))
    with warnings.catch_warnings():
        # Optuna marks options that it may still rename; the version range of the package protects against that.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = make(sampler_seed(study.seed, next_number(known)), starts)
    return OptunaSampler(study, sampler, known, earlier)
