"""Distil once, at one point of a study."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.errors import DivergedError, RayvlddError, StoreError, without_next_command
from rayvldd.library.run_log import key_of, run_log
from rayvldd.records.gain import RatesToTry, rates_to_try
from rayvldd.records.made_sets import note_made_set
from rayvldd.records.set_card import card_in
from rayvldd.records.trial import EVALUATIONS, Evaluation, Trial, read_evaluations
from rayvldd.storage.new_folders import writable_folder
from rayvldd.workspace import Workspace

if TYPE_CHECKING:
    from rayvldd.console import ProgressDisplay
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.experts.trajectory import Trajectory
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.tracking.protocol import Tracker


@dataclass(frozen=True)
class Distillation:
    """What one distillation made."""

    folder: Path
    """The best set on validation, with its pictures."""
    start_recall: float | None
    """Mean recall on validation before the first outer step, in percent; None if its record was lost."""
    rates_to_try: RatesToTry | None
    """If no evaluation was above the start."""


def distill(
    study: Study,
    *,
    workspace: str | Path = "rayvldd_workspace",
    store: str | None = None,
    out: str | Path | None = None,
    tracking_uri: str | None = None,
) -> "DistilledSet":
    """Distil at the study's first point, and return the set that is best on validation.

    Missing experts are trained first. The same call resumes an interrupted distillation.

    Args:
        study: The study; its first initial point is used.
        workspace: Folder of caches, experts and results.
        store: Store of experts: a folder or ``s3://BUCKET/PREFIX``; default: in the workspace.
        out: Folder for the set and its pictures; default: in the study's folder of the workspace.
        tracking_uri: MLflow server or database, or ``none``; default: ``mlflow.db`` in the workspace.

    Raises:
        RayvlddError: if data, models or settings are not compatible, or the run diverges.
    """
    from rayvldd.console import ProgressDisplay
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.experts.store.expert_store import open_store

    place = Workspace(workspace)
    place.check_writable()
    point = study.at(study.first_point())
    chosen = open_store(store, place)
    with ProgressDisplay() as display:
        target = Path(out) if out else None
        made = distill_point(point, place, chosen, display, "rv.distill", tracking_uri, target)
    return DistilledSet.load(made.folder)


def distill_point(
    point: Study,
    workspace: Workspace,
    store: "ExpertStore",
    display: "ProgressDisplay",
    command: str,
    tracking_uri: str | None = None,
    out: Path | None = None,
    *,
    phases_before: int = 0,
    num_phases: int = 0,
) -> Distillation:
    """Distil at a point, and draw the best set; both are logged.

    The locks are taken before the tracker is opened, so that a call that is refused does not end the other one's
    record.

    Args:
        point: The study at the point.
        workspace: Folder of caches and results.
        store: Store of experts.
        display: Shows the phases of the command, their progress, and the time that is left of the distillation.
        command: The user's command line.
        tracking_uri: As for :func:`distill`.
        out: As for :func:`distill`.
        phases_before: Phases of the command that are done.
        num_phases: All phases of the command; default: those of this distillation.

    Raises:
        RayvlddError: if another process distils with these settings or into this folder, the tracker cannot be used, or
            the run diverges.
    """
    from rayvldd.models.gpus import gpu_memory_limited_here

    runs = workspace.study(point.name) / "distill"
    own = phases_of(point)
    phases = iter(range(phases_before + 1, phases_before + own + 1))

    def begin_phase() -> None:
        display.begin_phase(next(phases), num_phases or phases_before + own)

    with (
        _held(runs / f".{key_of(point)}.lock", f"{runs}: another process is distilling with these settings"),
        _held_folder(workspace, out) if out else nullcontext(),
        gpu_memory_limited_here(point.resources.gpus_per_trial or 0.0),
        run_log(point, workspace, command, tracking_uri, display) as tracker,
    ):
        task, trajectories, key = _prepare(point, workspace, store, display, begin_phase)
        record = _record_in(runs / key, point.seed, display)
        for evaluation in record.evaluations:  # a killed session may not have sent them; known ones are not sent twice
            tracker.log_metrics(None, evaluation.metrics, evaluation.outer_step)
        begin_phase()
        with _naming_lower_rates(point, record, command):
            best = _run(point, task, trajectories, record, display, tracker)
        made = _copy_best(task, record, out or runs / key / "distilled_set", display)
        note_made_set(workspace.root, made)
        rates = rates_to_try(point, [record]) if record.best and not record.best.outer_step else None
        tracker.end_study("finished", {BEST_VAL_MEAN_RECALL: best, **(rates.numbers if rates else {})}, made)
    display.end_phases()
    first = next(iter(record.evaluations), None)
    return Distillation(made, first.recall if first and not first.outer_step else None, rates)


@contextmanager
def _naming_lower_rates(point: Study, record: Trial, command: str) -> Iterator[None]:
    """Name the rates to try in the error of a distillation that diverges in the block, unless it rose before.

    Raises:
        DivergedError: if it diverges.
    """
    from rayvldd.reports.gain import next_after_divergence

    try:
        yield
    except DivergedError as error:
        rates = rates_to_try(point, [record])
        if rates is None:
            raise
        raise DivergedError(without_next_command(error), next_command=next_after_divergence(rates, command)) from error


def phases_of(point: Study) -> int:
    """Number of the phases of a distillation: data and models, experts if the method needs any, and its steps."""
    return 3 if point.requires_experts else 2


def _prepare(
    point: Study,
    workspace: Workspace,
    store: "ExpertStore",
    display: "ProgressDisplay",
    begin_phase: Callable[[], None],
) -> tuple["RetrievalTask", list["Trajectory"], str]:
    """Load the task, train missing experts, and name the run by a hash of everything that determines it."""
    from rayvldd.config.setting import selected
    from rayvldd.data.array_cache import fingerprint
    from rayvldd.hyperparameter_search.preparation import certain_sets, load_expert_sets, make_missing_experts
    from rayvldd.runtime.trial_task import load_trial_task

    begin_phase()
    sets = load_expert_sets(point, workspace.cache, display)
    if point.requires_experts:
        begin_phase()
    make_missing_experts(certain_sets(point, sets), store, workspace.cache, display)
    recipe = next(iter(sets)).recipe
    task = load_trial_task(point, workspace.cache, display.progress)
    indexes = range(point.experts.num_experts if point.requires_experts else 0)
    trajectories = [store.load(recipe, index) for index in indexes]
    settings = selected(point, lambda info: info.in_point)
    experts = recipe.key if point.requires_experts else ""
    return task, trajectories, fingerprint({"settings": settings, "experts": experts})


@contextmanager
def _held_folder(workspace: Workspace, folder: Path) -> Iterator[None]:
    """Lock the folder of a set, by a file in the workspace, against another distillation into it.

    Raises:
        RayvlddError: if another process has it.
        StoreError: if it cannot be written.
    """
    whole = folder.resolve()
    file = workspace.root / "locks" / f"{hashlib.sha256(str(whole).encode()).hexdigest()[:16]}.lock"
    with (
        _held(file, f"--out {folder}: another process is distilling into this folder"),
        writable_folder(folder, "--out"),
    ):
        yield


@contextmanager
def _held(file: Path, problem: str) -> Iterator[None]:
    """Hold the lock of a file for the duration of the block.

    Args:
        file: The file; it stays.
        problem: The error if another process has the lock.

    Raises:
        RayvlddError: if another process has it.
    """
    from filelock import FileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file, timeout=0):
            yield
    except Timeout:
        raise RayvlddError(problem, next_command="wait for it to end") from None


def _record_in(folder: Path, seed: int, display: "ProgressDisplay") -> Trial:
    """The evaluations of a distillation so far. An unreadable record costs the curve of its recall, and not the set.

    It is set aside, since it may be whole where only the disk or a permission kept it from being read. The evaluation
    of the best set is added if a session ended between saving the set and recording it.
    """
    from rayvldd.distillation.evaluations import BEST

    file = folder / EVALUATIONS
    try:
        found = read_evaluations(file, repair=True)
    except StoreError as error:
        aside = file.replace(file.with_suffix(".unreadable"))
        display.warn(
            f"{without_next_command(error)}; it is {aside.name} now, and the curve lacks the evaluations before"
        )
        found = []
    record = Trial("the distillation", 0, seed, {}, folder, evaluations=found)
    card = card_in(record.checkpoint / BEST)
    if card is not None and card.outer_step > record.outer_step:
        record.add(Evaluation(card.outer_step, card.metrics))
    return record


def _run(
    point: Study,
    task: "RetrievalTask",
    trajectories: Sequence["Trajectory"],
    record: Trial,
    display: "ProgressDisplay",
    tracker: "Tracker",
) -> float:
    """Run or resume the distillation, with its state in the folder of its record, and add its evaluations to this.

    Returns:
        Its best validation recall, in percent.
    """
    import torch

    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.distillation.evaluations import BEST
    from rayvldd.distillation.loop import StepReport
    from rayvldd.distillation.loop import distill as distil
    from rayvldd.hyperparameter_search.parts_left import DistillationLeft, words_of_time_left

    torch.set_num_threads(point.resources.cpus_per_trial)
    total, last = point.distillation.outer_steps, [""]
    evaluated_s = record.evaluations[-1].seconds_evaluating if record.evaluations else 0.0
    left = DistillationLeft(point, evaluated_s=evaluated_s)

    def on_step(report: StepReport) -> None:
        last[0] = report.loss_name
        left.stepped()
        notes = [display.of_phase(words_of_time_left(left.seconds(report.outer_step)))]
        notes.append(f"{report.loss_name.replace('_', ' ')} {report.loss:.3f}")
        display.progress("outer steps", report.outer_step, total, ", ".join(filter(None, notes)))

    scaled = ""
    for evaluation in distil(point, task, trajectories, point.seed, record.checkpoint, on_step):
        metrics, name = evaluation.metrics, last[0]
        record.add(Evaluation(evaluation.outer_step, metrics))
        left.evaluated(evaluation.outer_step, metrics["seconds_evaluating"])
        tracker.log_metrics(None, metrics, evaluation.outer_step)
        loss = f"  {name.replace('_', ' ')} {metrics[name]:.3f}" if name in metrics else ""
        mark = "  best so far" if evaluation.is_best else ""
        display.line(
            f"outer step {evaluation.outer_step:5d}  val mean recall {metrics[VAL_MEAN_RECALL]:5.2f}{loss}{mark}"
        )
        if not scaled and (scaled := _words_of_scaled_rates(metrics)):
            display.line(scaled)
    display.done()
    best = DistilledSet.load(record.checkpoint / BEST)
    return best.origin.metrics[VAL_MEAN_RECALL]


def _words_of_scaled_rates(metrics: Mapping[str, float]) -> str:
    """The rates that ``scaled_sgd`` found, as a line; empty under another optimiser and before the first step."""
    from rayvldd.distillation.rate_factors import SCALED_RATES

    found = [f"{name.removeprefix('sgd_')} {metrics[name]:.3g}" for name in SCALED_RATES.values() if name in metrics]
    return f"rates of sgd that equal the scaled ones: {', '.join(found)}" if found else ""


def _copy_best(task: "RetrievalTask", record: Trial, out: Path, display: "ProgressDisplay") -> Path:
    """Copy the best set to ``out``, and draw it there. A set without pictures is a set, and is kept."""
    from rayvldd.distillation.evaluations import BEST
    from rayvldd.reports.illustrator import Pictures

    shutil.copytree(record.checkpoint / BEST, out, dirs_exist_ok=True)
    with display.during("drawing the set"), display.drawing(str(out)):
        Pictures().draw_set(out, task.train)
        if len(record.evaluations) > 1:
            Pictures().draw_recall(out, record)
    return out
