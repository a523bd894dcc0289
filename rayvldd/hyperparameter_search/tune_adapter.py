"""Adapter to Ray Tune, which runs the trials of a search; no other module imports Tune.

Tune gets points from a searcher and decisions from a scheduler, and calls back when trials start and end. The three
delegate to the strategy and the recorder; reports are single objects that Tune does not interpret. Tune stores no
checkpoints, and its files are not read again: a study is resumed from its records.

A trial whose process died continues as another trial of Tune. Tune's own retries count the death of a process that was
taken over from an ended trial twice while it is being reset, and then fail the new trial at the first death.
"""

import logging
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import ray
from ray import tune
from ray.air._internal import usage
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.recorder import Recorder, StudyRun
from rayvldd.hyperparameter_search.requests import Requests
from rayvldd.hyperparameter_search.strategy import (
    Decision,
    NothingToGainError,
    Proposal,
    SearchStrategy,
    SpaceExhaustedError,
    make_strategy,
)
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.trial import TrialContext, number_of, run_trial
from rayvldd.hyperparameter_search.trial_report import FailureReport, OutageReport, Report
from rayvldd.hyperparameter_search.waiting import WaitingForRoom
from rayvldd.models.gpus import limit_gpu_memory
from rayvldd.records.stop_reasons import BY_COMMAND
from rayvldd.runtime.cluster import describe_cluster, is_one_machine, refuse_dead_ray, workers_have_our_variables
from rayvldd.runtime.resources import resources_of_trials, trials_at_a_time

_TRIAL_ID = "trial_id"
"""Key of the trial's name in a Tune config; the others are searched settings."""
_REPORT = "report"
"""Key of a Tune result with the :data:`Report`."""

# The settings of Tune that it has as environment variables alone. They are set when this module is imported, before the
# threads of a search, and for the rest of the process: the environment must not change while threads run.
os.environ |= {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no console output, the study has its own display
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends at once: the ledger and the trials' checkpoints are consistent
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots of the experiment are not read again
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a study are the same in a trial as in the driver
}

_LIVES = 3
"""Maximum number of processes of a trial: one whose process died (lost node, out of memory) is resumed."""

_LOOK_S = 5.0
"""Seconds between two looks at whether Ray is alive."""


def search(run: StudyRun, context: TrialContext, folder: StudyFolder) -> None:
    """Run trials until the study has all of them or its time budget is used up."""
    settings, recorder = run.study.search, Recorder(run)
    missing = run.study.max_trials - len(run.ledger.ended)
    time_left = None if settings.time_budget_s is None else settings.time_budget_s - run.ledger.search_seconds
    recorder.resend_ended()
    if missing > 0 and (time_left is None or time_left > 0):
        recorder.begin()
        _run_trials(recorder, context, folder, missing, time_left)
        shutil.rmtree(folder.tune, ignore_errors=True)
    recorder.end_rest()
    run.display.done()


def _run_trials(
    recorder: Recorder, context: TrialContext, folder: StudyFolder, num_trials: int, time_left: float | None
) -> None:
    """Run ``num_trials`` trials.

    Args:
        recorder: Records the start, reports and end of trials.
        context: Data that the trials share.
        folder: Folder of the study, with requests of other commands and Tune's files.
        num_trials: Trials to run, including resumed ones.
        time_left: Seconds until the search ends; None: no limit.
    """
    requests = folder.requests
    run = recorder.run
    strategy = make_strategy(run.study, recorder.history, run.earlier, requests.take_point, run.learned)
    searcher = _Searcher(strategy, recorder, num_trials)
    waiting = WaitingForRoom(resources_of_trials(run.study), run.display.line, describe_cluster)
    callback = _Callback(recorder, requests, searcher, None if is_one_machine() else waiting)
    with _quiet_tune(), _uncounted_callbacks():
        tuner = tune.Tuner(
            _trainable(recorder.run.study, context),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_Scheduler(strategy, recorder, requests),
                num_samples=-1,  # the searcher ends it, because a trial whose process died is one more for Tune
                # Ray proposes so many points at once, whether or not there is room for their trials.
                max_concurrent_trials=trials_at_a_time(recorder.run.study),
                time_budget_s=time_left,
                # A new process would load torch and the models: ten seconds on a laptop. Without its timeout among the
                # variables of workers, Tune could drop the next trial of a process.
                reuse_actors=workers_have_our_variables(),
            ),
            run_config=tune.RunConfig(
                name=folder.tune.name,
                storage_path=str(folder.root),
                callbacks=[callback],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
            recorder.raise_outage()  # one that was reported in Tune's last step
        except BaseException:
            callback.end_processes()
            raise


def _trainable(study: Study, context: TrialContext) -> type[tune.Trainable]:
    """The trainable that Tune runs in the process of a trial.

    The function is local so that it is pickled by value: its process imports the trial and not the driver.
    """
    run, limit, per_trial = run_trial, limit_gpu_memory, resources_of_trials(study)
    num_gpus = per_trial.num_gpus

    # The annotations are sent too: a text, so that they name no module that the process would import.
    def run_and_report(config: "Mapping[str, SettingValue]", context: "TrialContext") -> None:
        limit(num_gpus)
        point = {key: value for key, value in config.items() if key != _TRIAL_ID}
        run(str(config[_TRIAL_ID]), point, context, lambda report: tune.report({_REPORT: report}))

    trainable = tune.with_parameters(run_and_report, context=context)
    return tune.with_resources(trainable, {"cpu": per_trial.num_cpus, "gpu": per_trial.num_gpus})


class _NotSaved:
    """Base of objects that Tune pickles for restoring experiments; studies are resumed from their records instead."""

    def __getstate__(self) -> dict[str, None]:
        return {}


class _Searcher(_NotSaved, Searcher):
    """Delegates to the strategy. It has no metric, because the strategy reads the records."""

    def __init__(self, strategy: SearchStrategy, recorder: Recorder, num_trials: int) -> None:
        super().__init__()
        self._strategy, self._recorder = strategy, recorder
        self._left = num_trials
        self._again: deque[dict[str, SettingValue]] = deque()
        """Configs of trials whose process died."""
        self._live: set[str] = set()
        """Tune's names of the trials that have not ended. Any of them may have to start again."""

    def suggest(self, trial_id: str) -> dict[str, SettingValue] | None:
        config = self._again.popleft() if self._again else self._proposed()
        if config is not None:
            self._live.add(trial_id)
        elif not self._live:
            return cast(None, Searcher.FINISHED)  # a text, which its annotation omits
        return config

    def _proposed(self) -> dict[str, SettingValue] | None:
        """The config of the next new trial; None if the study has all of them."""
        if not self._left:
            return None
        try:
            proposal = self._strategy.propose(self._recorder.history)
        except SpaceExhaustedError:
            self._left = 0
            return None
        except NothingToGainError as end:
            self._left = 0
            self._recorder.nothing_to_gain(end.gain)
            return None
        self._left -= 1
        self._recorder.proposed(proposal)
        return {**proposal.point, _TRIAL_ID: proposal.trial_id}

    def start_again(self, config: Mapping[str, SettingValue]) -> None:
        """Start a trial whose process died again, before any new one."""
        self._again.append(dict(config))

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Report] | None = None, error: bool = False) -> None:
        """Note that a trial of Tune has ended; the recorder records the end."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing; a study is resumed from its records."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""


class _Scheduler(_NotSaved, FIFOScheduler):
    """Records each report, and delegates the decision to the strategy, unless a user stops the trial."""

    def __init__(self, strategy: SearchStrategy, recorder: Recorder, requests: Requests) -> None:
        super().__init__()
        self._strategy, self._recorder, self._requests = strategy, recorder, requests

    def on_trial_result(self, tune_controller: object, trial: TuneTrial, result: Mapping[str, Report]) -> str:
        """Record the report before the decision, which is based on the records.

        At the regular end of a trial Tune repeats its last result; recorder and strategy ignore repetitions.
        """
        name, report = _name_of(trial), result.get(_REPORT)
        if isinstance(report, FailureReport):
            self._recorder.failure(name, report.reason)
        if isinstance(report, OutageReport):
            self._recorder.outage(name, report.reason)
        if report is None or isinstance(report, FailureReport | OutageReport):
            return FIFOScheduler.CONTINUE
        record = self._recorder.evaluation(name, report)
        if self._strategy.decide(record, self._recorder.history) is Decision.STOP:
            self._recorder.stopped(name, self._strategy.reason_to_stop(name))
        elif self._requests.stops(name):
            self._recorder.stopped(name, BY_COMMAND)
        else:
            return FIFOScheduler.CONTINUE
        return FIFOScheduler.STOP


class _Callback(_NotSaved, tune.Callback):
    """Records the start and end of trials, and starts those whose process died again."""

    def __init__(
        self, recorder: Recorder, requests: Requests, searcher: _Searcher, waiting: WaitingForRoom | None
    ) -> None:
        self._recorder, self._requests, self._searcher, self._waiting = recorder, requests, searcher, waiting
        self._deaths: Counter[str] = Counter()
        """Processes of each trial that died, by the study's name."""
        self._trials: list[TuneTrial] = []
        self._next_look = 0.0

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: object) -> None:
        if time.monotonic() >= self._next_look:
            refuse_dead_ray()
            self._next_look = time.monotonic() + _LOOK_S
        self._recorder.raise_outage()
        self._requests.raise_pause()
        if self._waiting is not None:
            self._waiting.look(any(trial.status == TuneTrial.RUNNING for trial in trials), time.monotonic())
        self._recorder.poll()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        self._trials = trials
        self._start(trial)

    def _start(self, trial: TuneTrial) -> None:
        point = {key: value for key, value in trial.config.items() if key != _TRIAL_ID}
        name = _name_of(trial)
        self._recorder.start(Proposal(name, number_of(name), point, self._requests.has_point(name)))
        self._requests.forget_point(name)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """Tune itself starts a trial again, and does not count it, if its node was preempted while it ran."""
        self._recorder.process_died(_name_of(trial))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        """Start a trial whose process died again, or record its failure if that has happened too often."""
        name = _name_of(trial)
        self._deaths[name] += trial.num_failures
        if self._deaths[name] < _LIVES:
            self._recorder.process_died(name)
            self._searcher.start_again(trial.config)
            return
        self._start(trial)  # one that has not started would have no record
        self._recorder.lost(name, _error_of(trial))
        self._recorder.end(name)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: object) -> None:
        self._recorder.end(_name_of(trial))

    def end_processes(self) -> None:
        """End the trials' processes at once after Ctrl-C; on a persistent Ray cluster they would continue to run.

        Pictures that are being drawn are completed, and the records of their trials are closed as ended.
        """
        for trial in self._trials:
            actor = trial.temporary_state.ray_actor
            if actor is not None:
                ray.kill(actor)
        self._recorder.close_drawn(wait=True)


def _name_of(trial: TuneTrial) -> str:
    """The study's name of a trial; Tune's name changes when a study is resumed."""
    return str(trial.config[_TRIAL_ID])


def _error_of(trial: TuneTrial) -> str:
    """Why Tune ended a trial with an error; only the text of the error is available, in a file."""
    file = Path(trial.error_file) if trial.error_file else None
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() if file else []
    except OSError:
        lines = []
    return f"its process died: {lines[-1]}" if lines else "its process died"


@contextmanager
def _uncounted_callbacks() -> Iterator[None]:
    """Keep Tune from counting callbacks by kind in the block, unless the user has asked for statistics of Ray.

    For the count it imports MLflow and wandb, where they are installed: seconds of every search.
    """
    if os.environ.get("RAY_USAGE_STATS_ENABLED") != "0":
        yield
        return
    count = usage.tag_callbacks
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = count


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Suppress log messages of Tune in the block."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
