"""What proposes points: Optuna's samplers over the study's own domains, through Ray Tune's ``OptunaSearch``.

The space is given define-by-run: each domain becomes the Optuna distribution with the same inclusive bounds, and
nothing goes through Tune's own types, which change them. Tune is given a fresh searcher each time; what is known of
earlier trials is entered into Optuna's study from the ledger.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, FloatDomain, Scalar
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.randomness import sampler_seed
from rayvldd.search.ledger import METRIC, Ledger, Trial, trial_id_of
from rayvldd.search.objectives import RISES, values_of
from rayvldd.search.optuna_trials import as_optuna_trial, directions_of, typed_point

TRIAL_ID = "trial_id"
"""Key of a trial's config under which its name stands beside the searched settings."""
FAILURE = "failure"
"""Key of a trial's last result under which the reason stands, if it failed."""
EVALUATION = "evaluation"
"""Key of a trial's result under which an evaluation's metrics stand."""

_NAME = "rayvldd"


def suggest(trial: Any, space: Space) -> dict[str, Scalar]:
    """Let an Optuna trial choose a value for each setting that is searched where the others already are."""
    return space.point(lambda key, domain: _suggest_one(trial, key, domain))


def _suggest_one(trial: Any, key: str, domain: Domain) -> Scalar:
    value: Scalar
    if isinstance(domain, FixedDomain):
        value = domain.value
    elif isinstance(domain, ChoiceDomain):
        value = trial.suggest_categorical(key, domain.values)
    elif isinstance(domain, FloatDomain):
        value = trial.suggest_float(key, domain.low, domain.high, log=domain.log, step=domain.step)
    else:
        value = trial.suggest_int(key, domain.low, domain.high, log=domain.log, step=domain.step)
    return value


def make_sampler(study: Study, known_trials: int) -> optuna.samplers.BaseSampler:
    """The sampler that the study names, seeded for the moment when so many trials are known.

    They model earlier than after ten trials, as is Optuna's default (``search.num_start_trials``): studies here are
    small, and begin with settings that somebody published. TPE models all settings together, and each group of
    conditional ones that stand in the same points (``group``). A running trial counts as a bad one for it (constant
    liar), so that trials side by side do not try the same point.
    """
    seed = sampler_seed(study.seed, known_trials)
    starts = study.search.num_start_trials or min(10, max(3, round(study.search.num_trials / 5)))
    quiet: dict[str, Any] = {"warn_independent_sampling": False}
    make: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=starts, multivariate=True, group=True, constant_liar=True
        ),
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
    """``OptunaSearch`` that knows a diverged trial from a missing one, and tells several objectives from one.

    Args:
        drawing: The define-by-run function of the space.
        study: What is searched, and for what.
        sampler: What proposes points.
        storage: Where Optuna's study of the known trials is.
    """

    def __init__(
        self,
        drawing: "_Drawing",
        study: Study,
        sampler: optuna.samplers.BaseSampler,
        storage: optuna.storages.BaseStorage,
    ) -> None:
        self._objectives = study.search.objectives
        several = len(self._objectives) > 1
        super().__init__(
            drawing,
            metric=list(self._objectives) if several else METRIC,
            mode=["max" if RISES[name] else "min" for name in self._objectives] if several else "max",
            sampler=sampler,
            storage=storage,
            study_name=_NAME,
        )
        self._study = study
        self._points: dict[str, Mapping[str, Scalar]] = {}
        self._best: dict[str, Mapping[str, float]] = {}
        """The evaluation with the highest recall of each running trial, as far as it was told here."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Propose a point. A Gaussian process may think for seconds, which Ray takes for work at the wrong place."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Define-by-run function passed", UserWarning)
            point: dict[str, Any] | None = super().suggest(trial_id)
        self._points[trial_id] = point or {}
        return point

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remember a trial's best evaluation: stopping is the scheduler's task, and Optuna learns how a trial ended."""
        row = result.get(EVALUATION)
        if row is not None and row["val_mean_recall"] > self._best.get(trial_id, {}).get("val_mean_recall", -1.0):
            self._best[trial_id] = row

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended: a failed one as pruned without a value.

        Optuna's samplers forget trials in the state FAIL and would propose diverging settings again and again; TPE
        ranks one that was pruned without a value below all others.
        """
        failed = error or result is None or FAILURE in result
        point, best = self._points.pop(trial_id, {}), self._best.pop(trial_id, None)
        if not failed and len(self._objectives) > 1:
            result = {**values_of(best, point, self._study)} if best else None  # type: ignore[dict-item]
        super().on_trial_complete(trial_id, None if failed else result, error=False)


@dataclass(frozen=True)
class _Drawing:
    """The define-by-run function of a space; a class, because Ray pickles it."""

    space: Space
    offset: int
    """From Optuna's numbers, which count the known trials without gaps, to the study's."""

    def __call__(self, trial: Any) -> dict[str, Scalar]:
        name = trial.user_attrs.get(TRIAL_ID) or trial_id_of(trial.number + self.offset)
        return {**suggest(trial, self.space), TRIAL_ID: name}


def make_searcher(study: Study, ledger: Ledger, earlier: Sequence[Trial] = ()) -> StudySearcher:
    """A searcher that knows the ended trials, first repeats those that were cut off, then goes on as the study says.

    What it knows of earlier studies (``earlier``, at points of this space) it knew before the first trial of this one.

    Its ``config`` for a trial holds the searched settings by dotted key, and the trial's name under ``TRIAL_ID``.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, directions = study.space, directions_of(study)
    storage = optuna.storages.InMemoryStorage()
    history = optuna.create_study(storage=storage, study_name=_NAME, directions=directions)
    for trial in [*earlier, *ledger.ended]:
        history.add_trial(as_optuna_trial(trial, study))
    for trial in ledger.running:
        history.enqueue_trial(typed_point(trial.point, space.domains), user_attrs={TRIAL_ID: trial.trial_id})
    for point in study.initial_points()[ledger.next_number :]:
        history.enqueue_trial(typed_point(point, space.domains))
    drawing = _Drawing(space, ledger.next_number - len(ledger.trials) - len(earlier))
    return StudySearcher(drawing, study, make_sampler(study, ledger.next_number), storage)
