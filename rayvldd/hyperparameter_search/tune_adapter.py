"""Ray Tune runs the trials of a search: the one module that knows Tune.

Tune asks a searcher for points, a scheduler for decisions, and calls back when trials start and end. Here the three
pass on to the strategy and to the recorder; reports travel as one object, which Tune does not look into. Tune keeps no
checkpoints and nothing that it saves is read again: a study continues from its records.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from rayvldd.config.domains import Scalar
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.recorder import Recorder, StudyRun
from rayvldd.hyperparameter_search.strategy import Decision, Proposal, SearchStrategy, make_strategy
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.trial import TrialContext, number_of, run_trial
from rayvldd.hyperparameter_search.trial_report import FailureReport

_TRIAL_ID = "trial_id"
"""Key of a Tune config with the trial's name, beside the searched settings."""
_REPORT = "report"
"""Key of a Tune result with the :data:`Report`."""

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: nothing on the console, the study has its own display
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files beside the ledger
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends at once: the ledger and the trials' own checkpoints are whole
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots of the experiment are not read again
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a study mean the same in a trial as in the driver
}

_LIVES = 3
"""A trial whose process died, of a lost node or of memory, is continued so many times less one."""

_TO_END_S = 600
"""Seconds that a stopped trial has to end before its process takes up the next one. After Tune's own 2, which releasing
memory can take on a busy machine, Tune drops the next trial, does not tell the searcher, and waits for ever for it to
end."""


def search(run: StudyRun, context: TrialContext, folder: StudyFolder) -> None:
    """Run trials until the study has as many as it asks for or its time is up."""
    settings, recorder = run.study.search, Recorder(run)
    missing = settings.num_trials - len(run.ledger.ended)
    time_left = None if settings.time_budget_s is None else settings.time_budget_s - run.ledger.search_seconds
    recorder.tell_again()
    if missing > 0 and (time_left is None or time_left > 0):
        _run_trials(recorder, context, folder.tune, missing, time_left)
        shutil.rmtree(folder.tune, ignore_errors=True)
    recorder.end_rest()
    run.display.done()


def _run_trials(
    recorder: Recorder, context: TrialContext, folder: Path, num_trials: int, time_left: float | None
) -> None:
    """Run so many trials.

    Args:
        recorder: Enters what happens.
        context: What the trials share.
        folder: Where Tune may write.
        num_trials: Trials to run, those that continue among them.
        time_left: Seconds until the search ends, or no limit.
    """
    strategy = make_strategy(recorder.run.study, recorder.history, recorder.run.earlier)
    callback = _Callback(recorder)
    with _quiet_tune():
        tuner = tune.Tuner(
            _trainable(recorder.run.study, context),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(strategy, recorder),
                scheduler=_Scheduler(strategy, recorder),
                num_samples=num_trials,
                max_concurrent_trials=recorder.run.study.search.max_concurrent,
                time_budget_s=time_left,
                reuse_actors=True,  # a new process loads torch and the models again: ten seconds on a laptop
            ),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                callbacks=[callback],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_LIVES - 1),
            ),
        )
        try:
            tuner.fit()
        except BaseException:
            callback.end_processes()
            raise


def _trainable(study: Study, context: TrialContext) -> type[tune.Trainable]:
    """The trial as Tune runs it, in a process that waits for it to end.

    The function is defined in here so that it travels by value: its process imports the trial and none of the driver.
    """
    run = run_trial

    def run_and_report(config: Mapping[str, Scalar], context: TrialContext) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_TO_END_S)
        point = {key: value for key, value in config.items() if key != _TRIAL_ID}
        run(str(config[_TRIAL_ID]), point, context, lambda report: tune.report({_REPORT: report}))

    trainable = tune.with_parameters(run_and_report, context=context)
    per_trial = {"cpu": study.resources.cpus_per_trial, "gpu": study.resources.gpus_per_trial}
    return tune.with_resources(trainable, per_trial)


class _NotSaved:
    """Tune pickles its parts to restore an experiment; studies continue from their records instead."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_NotSaved, Searcher):
    """Passes on what the strategy proposes. It has no metric: the strategy reads the records."""

    def __init__(self, strategy: SearchStrategy, recorder: Recorder) -> None:
        super().__init__()
        self._strategy, self._recorder = strategy, recorder

    def suggest(self, trial_id: str) -> dict[str, Scalar]:
        proposal = self._strategy.propose(self._recorder.history)
        return {**proposal.point, _TRIAL_ID: proposal.trial_id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder enters it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a study continues from its records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Scheduler(_NotSaved, FIFOScheduler):
    """Enters each report, and passes on what the strategy decides."""

    def __init__(self, strategy: SearchStrategy, recorder: Recorder) -> None:
        super().__init__()
        self._strategy, self._recorder = strategy, recorder

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Enter the report before the decision, which is made from the records.

        When a trial ends by itself, Tune repeats its last result; recorder and strategy know it.
        """
        name, report = _name_of(trial), result.get(_REPORT)
        if isinstance(report, FailureReport):
            self._recorder.failure(name, report.reason)
        if report is None or isinstance(report, FailureReport):
            return FIFOScheduler.CONTINUE
        record = self._recorder.evaluation(name, report)
        decision = self._strategy.decide(record, self._recorder.history)
        return FIFOScheduler.STOP if decision is Decision.STOP else FIFOScheduler.CONTINUE


class _Callback(_NotSaved, tune.Callback):
    """Enters when trials start and end."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._trials: list[TuneTrial] = []

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        self._recorder.look()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._trials = trials
        point = {key: value for key, value in trial.config.items() if key != _TRIAL_ID}
        name = _name_of(trial)
        self._recorder.start(Proposal(name, number_of(name), point))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._recorder.process_died(_name_of(trial))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Give up a trial whose process died too often."""
        self._recorder.failure(_name_of(trial), _error_of(trial))
        self._recorder.end(_name_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._recorder.end(_name_of(trial))

    def end_processes(self) -> None:
        """End the trials' processes at once, after Ctrl-C: on a Ray that lives on they would go on for nobody.

        Pictures that are being drawn are waited for: the records of their trials are closed as ended.
        """
        for trial in self._trials:
            actor = trial.temporary_state.ray_actor
            if actor is not None:
                ray.kill(actor)
        self._recorder.close_drawn(wait=True)


def _name_of(trial: TuneTrial) -> str:
    """The study's name of a trial; Tune's own changes when a study continues."""
    return str(trial.config[_TRIAL_ID])


def _error_of(trial: TuneTrial) -> str:
    """Why Tune gave up a trial: the error itself is gone by then, and its text is in a file."""
    file = Path(trial.error_file) if trial.error_file else None
    lines = file.read_text(encoding="utf-8").strip().splitlines() if file and file.is_file() else []
    return f"its process died: {lines[-1]}" if lines else "its process died"


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Keep Tune from printing, from catching Ctrl-C and from leaving files about, while the block runs."""
    logger = logging.getLogger("ray.tune")
    level, before = logger.level, {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
