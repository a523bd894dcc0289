"""One trial, in a process of its own: a distillation at one point, which reports every evaluation.

The distillation saves its own checkpoint in the trial's folder before it reports, and continues from there after its
process died.
"""

import atexit
import ctypes
import gc
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from rayvldd.config.domains import Scalar
from rayvldd.config.study import Study
from rayvldd.data.array_cache import fingerprint
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.distillation.distilled_set import CARD
from rayvldd.distillation.evaluations import BEST
from rayvldd.distillation.loop import distill
from rayvldd.errors import RayvlddError, message_of
from rayvldd.experts.get_or_make import ExpertRequest, get_or_make
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.trajectory import Trajectory
from rayvldd.hyperparameter_search.preparation import epochs_of
from rayvldd.hyperparameter_search.study_folder import read_json
from rayvldd.hyperparameter_search.trial_report import EvaluationReport, FailureReport, Reporter
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.tracking.machine_use import PeakMemory


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a study share; it travels to their processes once."""

    study: Study
    trials: Path
    """Folder of the trials; every node that runs trials must see it."""
    cache: Path
    store: ExpertStore


def run_trial(trial_id: str, point: Mapping[str, Scalar], context: TrialContext, report: Reporter) -> None:
    """Distil at a point and report every evaluation. An error is reported too, never raised.

    An exception would cost the process, and with it the seconds that the next trial needs to start one.
    """
    _pass_over_imports()
    try:
        memory = PeakMemory()
        for evaluation in _evaluations(trial_id, point, context):
            report(replace(evaluation, memory=memory.metrics()))
    except Exception as error:
        folder = context.trials / trial_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        report(FailureReport(reason_of(error)))
    finally:  # also where the trial is stopped, by a SystemExit out of its report
        release_memory()


@cache
def _pass_over_imports() -> None:
    """Have the garbage collector look at nothing that the process's first trial finds: a third of a second a trial."""
    gc.collect()  # what is garbage by now would stay for good
    gc.freeze()
    atexit.register(gc.unfreeze)  # bindings complain of what is still there when the interpreter ends


def release_memory() -> None:
    """Return what a trial took: graphs lie in reference cycles, and the allocator keeps what is freed.

    Without this a process that runs trial after trial grew by 1.1 GB a trial at 100 images of 96 px.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
    if trim:
        trim(0)


def reason_of(error: BaseException) -> str:
    """For people: the message of our own errors, the kind and message of all others."""
    if isinstance(error, RayvlddError):
        return str(error).removesuffix(f"\nNext: {error.next_command}")
    message = message_of(error)
    return message if message == type(error).__name__ else f"{type(error).__name__}: {message}"


def number_of(trial_id: str) -> int:
    """The number in a trial's name."""
    return int(trial_id.rpartition("_")[2])


def _evaluations(trial_id: str, point: Mapping[str, Scalar], context: TrialContext) -> Iterator[EvaluationReport]:
    study = context.study.at(point)
    task = task_at(study, context.cache)
    trajectories = trajectories_of(study, task, context)
    seed = context.study.trial_seed(number_of(trial_id))
    checkpoint = context.trials / trial_id / "checkpoint"
    # A trial that was cut off may have saved its best set and not lived to report it. The driver drops what it knows.
    saved = read_json(checkpoint / BEST / CARD) if (checkpoint / BEST / CARD).is_file() else None
    if saved:
        yield EvaluationReport(saved["outer_step"], saved["metrics"])
    finished = True
    for evaluation in distill(study, task, trajectories, seed, checkpoint):
        finished = False
        yield EvaluationReport(evaluation.outer_step, dict(evaluation.metrics))
    if finished and saved:  # nothing was left to do: the last evaluation's own numbers are lost, if it was not the best
        yield EvaluationReport(study.distillation.outer_steps, saved["metrics"])


def trajectories_of(study: Study, task: RetrievalTask, context: TrialContext) -> list[Trajectory]:
    """The experts that the method of a point requires; those that nobody has made yet are made here."""
    if not study.distillation.declaration.requires_experts:
        return []
    # The first so many, though there may be more: a trial's numbers must not depend on what other studies made.
    indexes = tuple(range(study.experts.num_experts))
    wanted = ExpertRequest(
        expert_recipe(study, task.fingerprints), expert_training(study), indexes, epochs_of(context.study, study)
    )
    torch.set_num_threads(context.study.resources.cpus_per_expert)  # as in actors: sums of floats depend on it
    trajectories = get_or_make(task, wanted, context.store)
    torch.set_num_threads(context.study.resources.cpus_per_trial)
    return trajectories


def task_at(point: Study, cache: Path) -> RetrievalTask:
    """The task at a point; what the process's last trial loaded is used again where it fits."""
    key = fingerprint({"data": point.data.model_dump(mode="json"), "model": point.model.model_dump(mode="json")})
    if key not in _loaded:
        _loaded.clear()
        device = "cuda" if point.resources.gpus_per_trial else "cpu"
        _loaded[key] = load_task(point.data, point.model, open_cache(cache), device=device)
    return _loaded[key]


_loaded: dict[str, RetrievalTask] = {}
"""The task that this process loaded last, by the settings that decide it."""
