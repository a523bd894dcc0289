"""What proposes points: Optuna's samplers over the study's own domains, through Ray Tune's ``OptunaSearch``.

The space is given define-by-run: each domain becomes the Optuna distribution with the same inclusive bounds, and
nothing goes through Tune's own types, which change them. Tune is given a fresh searcher each time; what is known of
earlier trials is entered into Optuna's study from the ledger.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from rayvldd.config.domains import ChoiceDomain, Domain, FloatDomain, Scalar
from rayvldd.config.study import Study
from rayvldd.search.ledger import METRIC, Ledger, trial_id_of
from rayvldd.search.optuna_trials import as_optuna_trial, typed_point
from rayvldd.search.seeds import sampler_seed

TRIAL_ID = "trial_id"
"""Key of a trial's config under which its name stands beside the searched settings."""
FAILURE = "failure"
"""Key of a trial's last result under which the reason stands, if it failed."""

_NAME = "rayvldd"


def suggest(trial: Any, space: Mapping[str, Domain]) -> dict[str, Scalar]:
    """Let an Optuna trial choose a value for each domain."""
    return {key: _suggest_one(trial, key, domain) for key, domain in space.items()}


def _suggest_one(trial: Any, key: str, domain: Domain) -> Scalar:
    value: Scalar
    if isinstance(domain, ChoiceDomain):
        value = trial.suggest_categorical(key, domain.values)
    elif isinstance(domain, FloatDomain):
        value = trial.suggest_float(key, domain.low, domain.high, log=domain.log, step=domain.step)
    else:
        value = trial.suggest_int(key, domain.low, domain.high, log=domain.log, step=domain.step)
    return value


def make_sampler(study: Study, known_trials: int) -> optuna.samplers.BaseSampler:
    """The sampler that the study names, seeded for the moment when so many trials are known.

    TPE models after a third of the trials, not after ten as by default: studies here are small. A running trial
    counts as a bad one for it (constant liar), so that trials side by side do not try the same point.
    """
    seed = sampler_seed(study.seed, known_trials)
    starts = min(10, max(3, study.search.num_trials // 3))
    quiet: dict[str, Any] = {"warn_independent_sampling": False}
    make: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=starts, constant_liar=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed, n_startup_trials=starts),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=starts, **quiet),
        "qmc": lambda: optuna.samplers.QMCSampler(seed=seed, scramble=True, **quiet),
    }
    with warnings.catch_warnings():
        # Optuna marks options it may still rename; the version range of the package is what protects against that.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make[study.search.sampler]()


class StudySearcher(OptunaSearch):
    """``OptunaSearch`` that knows a diverged trial from a missing one."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Propose a point. A Gaussian process may think for seconds, which Ray takes for work at the wrong place."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Define-by-run function passed", UserWarning)
            point: dict[str, Any] | None = super().suggest(trial_id)
        return point

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ignore results on the way: stopping is the scheduler's task, and Optuna learns the last one."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended: a failed one as pruned without a value.

        Optuna's samplers forget trials in the state FAIL and would propose diverging settings again and again; TPE
        ranks one that was pruned without a value below all others.
        """
        failed = error or result is None or FAILURE in result
        super().on_trial_complete(trial_id, None if failed else result, error=False)


@dataclass(frozen=True)
class _Drawing:
    """The define-by-run function of a space; a class, because Ray pickles it."""

    space: Mapping[str, Domain]
    offset: int
    """From Optuna's numbers, which count the known trials without gaps, to the study's."""

    def __call__(self, trial: Any) -> dict[str, Scalar]:
        name = trial.user_attrs.get(TRIAL_ID) or trial_id_of(trial.number + self.offset)
        return {**suggest(trial, self.space), TRIAL_ID: name}


def make_searcher(study: Study, ledger: Ledger) -> StudySearcher:
    """A searcher that knows the ended trials, first repeats those that were cut off, then goes on as the study says.

    Its ``config`` for a trial holds the searched settings by dotted key, and the trial's name under ``TRIAL_ID``.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = study.search.space
    storage = optuna.storages.InMemoryStorage()
    history = optuna.create_study(storage=storage, study_name=_NAME, direction="maximize")
    for trial in ledger.ended:
        history.add_trial(as_optuna_trial(trial, space))
    for trial in ledger.running:
        history.enqueue_trial(typed_point(trial.point, space), user_attrs={TRIAL_ID: trial.trial_id})
    for point in study.search.initial_points[ledger.next_number :]:
        history.enqueue_trial(typed_point(point, space))
    drawing = _Drawing(space, ledger.next_number - len(ledger.trials))
    sampler = make_sampler(study, ledger.next_number)
    return StudySearcher(drawing, metric=METRIC, mode="max", sampler=sampler, storage=storage, study_name=_NAME)
