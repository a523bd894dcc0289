"""The search itself: Ray Tune runs the trials that are missing, those that were cut off first."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ray import tune

from rayvldd.config.domains import Scalar
from rayvldd.search.progress_callback import StudyRun, TrialCallback
from rayvldd.search.sampler import make_searcher
from rayvldd.search.scheduler import make_scheduler
from rayvldd.search.study_folder import StudyFolder
from rayvldd.search.trial import TrialJob, run_trial

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: nothing on the console, the study has its own display
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files beside the ledger
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends at once: the ledger and the trials' own checkpoints are whole
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots of the experiment are not read again
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a study mean the same in a trial as in the driver
}

_LIVES = 3
"""A trial whose process died, of a lost node or of memory, is taken up again so many times less one."""

_TO_END_S = 600
"""Seconds that a stopped trial has to end before its process takes up the next one. After Tune's own 2, which giving
memory back can take on a busy machine, Tune drops the next trial, tells the searcher nothing of it, and waits for ever
for it to end."""


def search(run: StudyRun, job: TrialJob, folder: StudyFolder) -> None:
    """Run trials until the study has as many as it wants or its time is up."""
    settings = run.study.search
    missing = settings.num_trials - len(run.ledger.ended)
    time_left = None if settings.time_budget_s is None else settings.time_budget_s - run.ledger.search_seconds
    callback = TrialCallback(run)
    callback.tell_again()
    if missing > 0 and (time_left is None or time_left > 0):
        try:
            with _quiet_tune():
                _make_tuner(run, job, folder, callback, missing, time_left).fit()
        except BaseException:
            callback.end_processes()
            raise
        shutil.rmtree(folder.tune, ignore_errors=True)
    callback.end_rest()
    run.display.done()


def _make_tuner(
    run: StudyRun,
    job: TrialJob,
    folder: StudyFolder,
    callback: TrialCallback,
    missing: int,
    time_left: float | None,
) -> tune.Tuner:
    resources = run.study.resources
    trainable = tune.with_parameters(_patient(run_trial), job=job)
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}),
        tune_config=tune.TuneConfig(
            search_alg=make_searcher(run.study, run.ledger, run.earlier),
            scheduler=make_scheduler(run.study, run.ledger),
            num_samples=missing,
            max_concurrent_trials=run.study.search.max_concurrent,
            time_budget_s=time_left,
            reuse_actors=True,  # a new process loads torch and the models again: ten seconds on a laptop
        ),
        run_config=tune.RunConfig(
            name=folder.tune.name,
            storage_path=str(folder.root),
            callbacks=[callback],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_LIVES - 1),
        ),
    )


def _patient(
    run: Callable[[Mapping[str, Scalar], TrialJob], None],
) -> Callable[[Mapping[str, Scalar], TrialJob], None]:
    """The trial, in a process that waits for it to end."""

    def run_trial(config: Mapping[str, Scalar], job: TrialJob) -> None:
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_TO_END_S)
        run(config, job)

    return run_trial


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
