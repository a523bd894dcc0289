"""Optuna's samplers for the domains of a study.

Each domain is converted to the Optuna distribution with the same inclusive bounds. The trials are added to an Optuna
study from the records.
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence

import optuna
from optuna.study import StudyDirection

from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, FloatDomain, SettingValue
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.space import Space
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.curves_sampler import OUTER_STEPS, CurvesSampler
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.objectives import values_of
from rayvldd.hyperparameter_search.optuna_trials import (
    FAILED,
    as_optuna_trial,
    directions_of,
    intermediate_values,
    optuna_choices,
    optuna_value,
    optuna_values,
)
from rayvldd.hyperparameter_search.strategy import Sampler, next_number
from rayvldd.hyperparameter_search.tpe import Tpe
from rayvldd.randomness import sampler_seed
from rayvldd.records.trial import Evaluation, Prediction, Trial


class OptunaSampler:
    """An Optuna sampler that receives the trials from the records.

    A failed trial is added as pruned without a value: Optuna's samplers ignore trials in the state FAIL and would
    propose diverging settings repeatedly, while TPE ranks a trial that was pruned without a value below all others.
    Samplers that look at completed trials only get it as one with the worst values so far. A trial whose process died
    is no information about its point and is ignored.

    Args:
        study: Search space and objectives.
        sampler: Optuna sampler that proposes points.
        known: The trials of the study's earlier sessions.
        earlier: Trials of other studies at points of this space.
        ranks_pruned: Whether the sampler ranks pruned trials below the others; if not, it does not look at them.
        raw: Whether it gets the recalls of each evaluation as intermediate values, not the best so far.
        predict: The prediction of the sampler's model at a point, after a proposal.
        gain: The improvement of recall that it expects of its last proposal, in standard deviations of the noise.
    """

    def __init__(
        self,
        study: Study,
        sampler: optuna.samplers.BaseSampler,
        known: Collection[Trial],
        earlier: Sequence[Trial],
        *,
        ranks_pruned: bool = True,
        raw: bool = False,
        predict: Callable[[Mapping[str, SettingValue]], Prediction | None] = lambda point: None,
        gain: Callable[[], float | None] = lambda: None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study, self._space, self._ranks_pruned, self._raw = study, study.space, ranks_pruned, raw
        self._predict, self._gain = predict, gain
        self._optuna = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            directions=directions_of(study),
        )
        ended = sorted((trial for trial in known if trial.state != "running"), key=lambda trial: trial.number)
        for trial in [*earlier, *ended]:
            if not trial.process_died:
                self._optuna.add_trial(as_optuna_trial(trial, study, self._values_of(trial), raw=raw))
        self._open: dict[str, optuna.trial.Trial] = {}
        """Proposed trials that had not ended when the history was last read."""
        self._predictions: dict[str, Prediction | None] = {}
        self._last_steps: dict[str, int] = {}
        """Last outer step of each open trial that was reported to Optuna."""

    def propose(
        self, trial_id: str, given: dict[str, SettingValue], history: Collection[Trial]
    ) -> dict[str, SettingValue]:
        """Update Optuna's study from the history, and let Optuna choose the settings that are not given."""
        self._tell(history)
        if given:
            self._optuna.enqueue_trial({key: optuna_value(value) for key, value in given.items()})
        self._open[trial_id] = trial = self._optuna.ask()
        point = suggest(trial, self._space)
        self._predictions[trial_id] = self._predict(point)
        return point

    def prediction(self, trial_id: str) -> Prediction | None:
        """The recall that the sampler predicted when it proposed a trial; None if it has no model, or not yet."""
        return self._predictions.get(trial_id)

    def expected_gain(self) -> float | None:
        """The gain that the sampler's model expects of its last proposal; None if it did not make it."""
        return self._gain()

    def repeated(self, trial_id: str, earlier: Trial | None) -> None:
        """Add the outcome of the trial at the same point, once more; of one that has not ended there is none."""
        optuna_trial = self._open.pop(trial_id)
        if earlier is None or earlier.state == "running":
            self._optuna.tell(optuna_trial, state=optuna.trial.TrialState.FAIL)  # which samplers ignore
        else:
            self._report(optuna_trial, earlier, -1)
            self._end(optuna_trial, earlier)

    def optuna_trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials of the Optuna study."""
        return self._optuna.get_trials()

    def _tell(self, history: Collection[Trial]) -> None:
        for trial in history:
            if trial.trial_id not in self._open:
                continue
            optuna_trial = self._open[trial.trial_id]
            self._report(optuna_trial, trial, self._last_steps.get(trial.trial_id, -1))
            self._last_steps[trial.trial_id] = trial.outer_step
            if trial.state != "running":
                del self._open[trial.trial_id]
                self._end(optuna_trial, trial)

    def _report(self, optuna_trial: optuna.trial.Trial, trial: Trial, last_step: int) -> None:
        """Report the evaluations after an outer step."""
        for step, value in intermediate_values(trial, self._study, raw=self._raw).items():
            if step > last_step:
                optuna_trial.report(value, step)

    def _end(self, optuna_trial: optuna.trial.Trial, trial: Trial) -> None:
        """Report how a trial ended."""
        states, values = optuna.trial.TrialState, self._values_of(trial)
        if trial.state == "failed":
            optuna_trial.set_user_attr(FAILED, True)
        if trial.process_died:
            self._optuna.tell(optuna_trial, state=states.FAIL)  # which samplers ignore
        else:
            self._optuna.tell(optuna_trial, values, state=states.COMPLETE if values else states.PRUNED)

    def _values_of(self, trial: Trial) -> list[float] | None:
        """The values of an ended trial; of a failed one None, or the worst so far for a sampler that needs values."""
        values = optuna_values(trial, self._study)
        if values is not None or trial.state != "failed" or self._ranks_pruned:
            return values
        completed = self._optuna.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        evaluations = trial.evaluations or [Evaluation(0, {VAL_MEAN_RECALL: 0.0})]
        known = [one.values for one in completed]
        known += [list(values_of(one, trial.point, self._study).values()) for one in evaluations]
        worst = (min if direction is StudyDirection.MAXIMIZE else max for direction in self._optuna.directions)
        return [choose(column) for choose, column in zip(worst, zip(*known, strict=True), strict=True)]


class _CurvesOfStudy(OptunaSampler):
    """The sampler ``curves`` with the trials from the records."""

    def __init__(
        self, study: Study, sampler: CurvesSampler, known: Collection[Trial], earlier: Sequence[Trial]
    ) -> None:
        def gain() -> float | None:
            return sampler.expected_gain

        super().__init__(study, sampler, known, earlier, raw=True, predict=sampler.predicted, gain=gain)
        self._curves = sampler

    def learn_from(self, learned: LearnedSources) -> None:
        """Take what earlier studies predict as the mean of the model before it is fitted."""
        self._curves.learn_from(learned)


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
    """Tree-structured Parzen estimator."""
    return _made(Tpe, study, known, earlier)


def make_random(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """Independent random samples."""
    return _made(lambda seed, _: optuna.samplers.RandomSampler(seed=seed), study, known, earlier)


def make_gp(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """A Gaussian process."""
    return _made(
        lambda seed, starts: optuna.samplers.GPSampler(seed=seed, n_startup_trials=starts),
        study,
        known,
        earlier,
        ranks_pruned=False,
    )


def make_cmaes(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """CMA-ES."""

    def make(seed: int, starts: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=starts, warn_independent_sampling=False)

    return _made(make, study, known, earlier, ranks_pruned=False)


def make_qmc(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """A scrambled Sobol sequence."""

    def make(seed: int, _: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)

    return _made(make, study, known, earlier)


def make_curves(study: Study, known: Collection[Trial], earlier: Sequence[Trial]) -> Sampler:
    """A model of the learning curves of all trials."""
    sampler = CurvesSampler(
        study.space,
        study.last_step_at,
        study.largest(OUTER_STEPS),
        seed=study.seed,
        num_start_trials=start_trials(study),
    )
    return _CurvesOfStudy(study, sampler, known, earlier)


def _made(
    make: Callable[[int, int], optuna.samplers.BaseSampler],
    study: Study,
    known: Collection[Trial],
    earlier: Sequence[Trial],
    *,
    ranks_pruned: bool = True,
) -> OptunaSampler:
    """The sampler, with a seed that depends on the number of known trials."""
    with warnings.catch_warnings():
        # Optuna marks options that it may still rename; the version range of the package protects against that.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = make(sampler_seed(study.seed, next_number(known)), start_trials(study))
    return OptunaSampler(study, sampler, known, earlier, ranks_pruned=ranks_pruned)


def start_trials(study: Study) -> int:
    """Trials before a sampler uses its model (``search.num_start_trials``).

    By default fewer than ten, Optuna's default, because studies are small and begin with published settings.
    """
    return study.search.num_start_trials or min(10, max(3, round(study.search.num_trials / 5)))
