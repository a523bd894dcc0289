"""One trial, in its own process: a distillation at one point, which reports every evaluation.

The distillation saves a checkpoint in the trial's folder before it reports, and resumes from it if its process died.
"""

import atexit
import ctypes
import errno
import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.data.array_cache import fingerprint
from rayvldd.distillation.evaluations import BEST, EvaluationResult
from rayvldd.distillation.loop import distill
from rayvldd.distillation.step_pictures import draw_images, pictured_steps
from rayvldd.errors import OutageError, RayvlddError, message_of, without_next_command
from rayvldd.experts.get_or_make import ExpertRequest, get_or_make
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.trajectory import Trajectory
from rayvldd.hyperparameter_search.preparation import epochs_of
from rayvldd.hyperparameter_search.trial_log import logging_to
from rayvldd.hyperparameter_search.trial_report import (
    EvaluationReport,
    FailureReport,
    OutageReport,
    Report,
    Reporter,
)
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.records.set_card import card_in
from rayvldd.records.trial import picture_at
from rayvldd.runtime.trial_task import load_trial_task
from rayvldd.tracking.machine_use import PeakMemory

logger = logging.getLogger(__name__)

_PAUSES_S = (5.0, 30.0)
"""Seconds before each further try of a trial that an outage cut off, beyond the tries of the storage's own client."""
_OUTAGES = (errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE)
"""Errors of the operating system that a full or lost disk gives, whatever is written to it."""


@dataclass(frozen=True)
class TrialContext:
    """Data that all trials of a study share; it is sent to their processes once."""

    study: Study
    trials: Path
    """Folder of the trials, accessible from every node that runs trials."""
    cache: Path
    store: ExpertStore


def run_trial(trial_id: str, point: Mapping[str, SettingValue], context: TrialContext, report: Reporter) -> None:
    """Distil at a point and report every evaluation. Errors are reported, never raised.

    An exception would end the process, and the next trial would need seconds to start another one. An outage is
    reported as an outage, because it does not make the point a bad one.
    """
    _pass_over_imports()
    try:
        with logging_to(context.trials / trial_id) as log:
            _run_through_outages(trial_id, point, context, _also_logged(report, log))
    except Exception as error:
        report(OutageReport(reason_of(error)) if is_outage(error) else FailureReport(reason_of(error)))
    finally:  # also if the trial is stopped, by a SystemExit from its report
        release_memory()


def _also_logged(report: Reporter, log: Callable[[str], None]) -> Reporter:
    """A reporter that also adds each evaluation to the trial's log."""

    def report_and_log(message: Report) -> None:
        if isinstance(message, EvaluationReport):
            log(f"step {message.outer_step}: val mean recall {message.metrics[VAL_MEAN_RECALL]:.2f}")
        report(message)

    return report_and_log


def _run_through_outages(
    trial_id: str, point: Mapping[str, SettingValue], context: TrialContext, report: Reporter
) -> None:
    """Run a trial. After an outage it continues from its checkpoint, as often as there are pauses."""
    memory = PeakMemory()
    for pause_s in (*_PAUSES_S, None):
        try:
            for evaluation in _evaluations(trial_id, point, context):
                report(replace(evaluation, memory=memory.metrics()))
            return
        except Exception as error:
            if pause_s is None or not is_outage(error):
                raise
        time.sleep(pause_s)


def is_outage(error: BaseException) -> bool:
    """Whether an error is of a storage or a disk, so that the same work may succeed later."""
    return isinstance(error, OutageError) or (isinstance(error, OSError) and error.errno in _OUTAGES)


@cache
def _pass_over_imports() -> None:
    """Exclude objects that exist before the first trial from garbage collection; saves 0.3 s per trial."""
    gc.collect()  # present garbage would never be freed
    gc.freeze()
    atexit.register(gc.unfreeze)  # bindings complain about objects that still exist when the interpreter ends


def release_memory() -> None:
    """Release the memory of a trial: graphs are in reference cycles, and the allocator keeps freed memory.

    Without this, a process grew by 1.1 GB per trial with 100 images of 96 pixels.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
    if trim:
        trim(0)


def reason_of(error: BaseException) -> str:
    """Message of an error for the user; errors of other packages with their type."""
    if isinstance(error, RayvlddError):
        return without_next_command(error)
    message = message_of(error)
    return message if message == type(error).__name__ else f"{type(error).__name__}: {message}"


def number_of(trial_id: str) -> int:
    """The number in a trial's name."""
    return int(trial_id.rpartition("_")[2])


def _evaluations(trial_id: str, point: Mapping[str, SettingValue], context: TrialContext) -> Iterator[EvaluationReport]:
    study = context.study.at(point)
    task = task_at(study, context.cache)
    trajectories = trajectories_of(study, task, context)
    seed = context.study.trial_seed(number_of(trial_id))
    checkpoint = context.trials / trial_id / "checkpoint"
    # An interrupted trial may have saved its best set without reporting it. The driver ignores known evaluations.
    saved = card_in(checkpoint / BEST)
    if saved:
        yield EvaluationReport(saved.outer_step, saved.metrics)
    finished, pictured = True, set(pictured_steps(study.distillation))

    def draw(evaluation: EvaluationResult) -> None:
        if evaluation.outer_step in pictured:
            _draw(evaluation, context.trials / trial_id)

    for evaluation in distill(
        study, task, trajectories, seed, checkpoint, on_evaluation=draw, first_recalls=_first_recalls
    ):
        finished = False
        yield EvaluationReport(evaluation.outer_step, dict(evaluation.metrics))
    if finished and saved:  # nothing is left to do: the last evaluation is lost if it was not the best
        yield EvaluationReport(study.distillation.outer_steps, saved.metrics)


def _draw(evaluation: EvaluationResult, folder: Path) -> None:
    """Draw the set at an evaluation. A trial without the picture goes on: it is for viewing alone."""
    try:
        draw_images(evaluation.distilled_set.images, picture_at(folder, evaluation.outer_step))
    except Exception as error:  # of the image library or the disk
        logger.warning("no picture of outer step %d: %s", evaluation.outer_step, message_of(error))


def trajectories_of(study: Study, task: RetrievalTask, context: TrialContext) -> list[Trajectory]:
    """The experts that the method at a point requires; missing ones are trained here."""
    if not study.requires_experts:
        return []
    # Only the first ones, even if there are more: results of a trial must not depend on other studies.
    indexes = tuple(range(study.experts.num_experts))
    request = ExpertRequest(
        expert_recipe(study, task.fingerprints), expert_training(study), indexes, epochs_of(context.study, study)
    )
    torch.set_num_threads(context.study.resources.cpus_per_expert)  # as in actors: floating-point sums depend on it
    trajectories = get_or_make(task, request, context.store)
    torch.set_num_threads(context.study.resources.cpus_per_trial)
    return trajectories


def task_at(point: Study, cache: Path) -> RetrievalTask:
    """The task at a point; the task of the process's last trial is reused if it matches."""
    key = fingerprint({"data": point.data.model_dump(mode="json"), "model": point.model.model_dump(mode="json")})
    if key not in _loaded:
        _loaded.clear()
        _first_recalls.clear()
        _loaded[key] = load_trial_task(point, cache)
    return _loaded[key]


_loaded: dict[str, RetrievalTask] = {}
"""The task that this process loaded last, by the settings that determine it."""
_first_recalls: dict[str, dict[str, float]] = {}
"""Validation recalls of the initial sets of its trials, which are the same where trials share their seed."""
