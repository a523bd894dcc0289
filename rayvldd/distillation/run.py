"""One distillation from start to end, with evaluations on validation on the way and state to continue from."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rayvldd.config.setting import selected
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.distiller import Distiller, StepReport
from rayvldd.errors import DivergedError, StoreError
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.students import evaluate_pairs
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import student_seeds

PROGRESS = "progress.json"
BEST = "best"
_FALLEN = 2
"""Evaluations in a row far below the start after which a run is given up."""
_KEPT = ("best_mean_recall", "start_mean_recall", "evaluations_below", "seconds_matching", "seconds_evaluating")
"""What a run remembers between evaluations, by attribute."""


@dataclass(frozen=True)
class Evaluation:
    """The synthetic set at one outer step, scored on validation."""

    outer_step: int
    metrics: dict[str, float]
    """Matching losses and step sizes (means since the last evaluation), validation recalls in percent, seconds."""
    is_best: bool
    """Whether validation recall is the highest so far."""
    distilled_set: DistilledSet


def distill(
    task: RetrievalTask,
    trajectories: Sequence[Trajectory],
    seed: int,
    checkpoint_folder: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> Iterator[Evaluation]:
    """Distil and yield an evaluation at outer step 0, at every ``evaluate_every`` and at the last.

    Args:
        task: Model and data, with the settings of this run.
        trajectories: The experts.
        seed: Decides every draw of the run.
        checkpoint_folder: Where the state is saved before each yield and continued from; the best set so far lies
            in its ``best`` folder. A run continued from there gives the numbers of one that was never stopped.
        on_step: Told of every outer step.

    Raises:
        DivergedError: when the run leaves its range for good (see ``Distiller.step``), or when validation recall stays
            below half of what the set began with: divergence that no loss shows.
        StoreError: when the folder holds the state of a run with other settings.
    """
    run = _Run(task, Distiller(task, trajectories, seed), seed, checkpoint_folder)
    settings = task.study.distillation
    if not run.resume():
        yield run.evaluate([])
    while run.distiller.outer_step < settings.outer_steps:
        run.raise_if_collapsed()
        goal = min(run.distiller.outer_step + settings.evaluate_every, settings.outer_steps)
        reports = []
        while run.distiller.outer_step < goal:
            started = time.perf_counter()
            reports.append(run.distiller.step())
            run.seconds_matching += time.perf_counter() - started
            if on_step:
                on_step(reports[-1])
        yield run.evaluate(reports)


class _Run:
    """What a run remembers between evaluations besides the distiller's own state."""

    def __init__(self, task: RetrievalTask, distiller: Distiller, seed: int, folder: Path | None) -> None:
        self.task, self.distiller, self.seed, self.folder = task, distiller, seed, folder
        self.best_mean_recall = self.start_mean_recall = -1.0
        self.evaluations_below = 0
        self.seconds_matching = self.seconds_evaluating = 0.0

    def evaluate(self, reports: list[StepReport]) -> Evaluation:
        started = time.perf_counter()
        recalls = self._validation_recalls()
        self.seconds_evaluating += time.perf_counter() - started
        mean_recall = recalls["val_mean_recall"]
        is_best = mean_recall > self.best_mean_recall
        if not self.distiller.outer_step:
            self.start_mean_recall = mean_recall
        self.evaluations_below = self.evaluations_below + 1 if mean_recall < self._floor() else 0
        self.best_mean_recall = max(self.best_mean_recall, mean_recall)
        metrics = {
            **_means(reports),
            **recalls,
            "best_val_mean_recall": self.best_mean_recall,
            "seconds_matching": self.seconds_matching,
            "seconds_evaluating": self.seconds_evaluating,
        }
        evaluation = Evaluation(self.distiller.outer_step, metrics, is_best, self.distiller.distilled_set(metrics))
        self._save(evaluation)
        return evaluation

    def _floor(self) -> float:
        """Half of the recall at the start; nothing where that was little more than guessing, as from noise."""
        guessing = 100 * np.mean([1, 5, 10]) / self.task.val.num_images
        return self.start_mean_recall / 2 if self.start_mean_recall > 3 * guessing else 0.0

    def raise_if_collapsed(self) -> None:
        """Raise where two evaluations in a row were far below the start."""
        if self.evaluations_below < _FALLEN:
            return
        settings = self.task.study.distillation
        raise DivergedError(
            f"distillation diverged before outer step {self.distiller.outer_step}: validation recall has stayed below "
            f"half of the start's {self.start_mean_recall:.2f} for {self.evaluations_below} evaluations, with "
            f"lr_image={settings.lr_image:g}, lr_text={settings.lr_text:g}, lr_lr={settings.lr_lr:g}",
            next_command="the same command with smaller --set distillation.lr_image=…, lr_text=… or lr_lr=…",
        )

    def _validation_recalls(self) -> dict[str, float]:
        """Mean over students, whose seeds are the same at every evaluation: differences are the set's own."""
        task = proxy_evaluation_at(self.task, self.distiller.outer_step)
        pairs = self.distiller.distilled_set().pairs(task)
        seeds = student_seeds(task.study.seed, task.study.evaluation.num_students)
        return mean_of(evaluate_pairs(task, pairs, task.val, seeds)).as_dict("val_")

    def _save(self, evaluation: Evaluation) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if evaluation.is_best:
            evaluation.distilled_set.save(self.folder / BEST)
        state = f"state-{self.distiller.outer_step:06d}.safetensors"
        self.distiller.save(self.folder / state)
        progress = {
            "state": state,  # of this very moment: whichever file is written last, the two belong together
            "outer_step": self.distiller.outer_step,
            "settings": self._settings(),
            **{name: getattr(self, name) for name in _KEPT},
        }
        temporary = self.folder / f".{PROGRESS}.tmp"
        temporary.write_text(json.dumps(progress), encoding="utf-8")
        os.replace(temporary, self.folder / PROGRESS)
        for earlier in self.folder.glob("state-*.safetensors"):
            if earlier.name != state:
                earlier.unlink(missing_ok=True)

    def resume(self) -> bool:
        """Continue from the folder's state, if it holds one."""
        if self.folder is None or not (self.folder / PROGRESS).is_file():
            return False
        progress = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
        self._refuse_other_settings(progress.get("settings", {}))
        self.distiller.restore(self.folder / progress["state"])
        for name in _KEPT:
            setattr(self, name, progress[name])
        return True

    def _settings(self) -> dict[str, Any]:
        """What a state belongs to; a run may go on for longer, and with another way to compute the gradient."""
        settings = selected(self.task.study.distillation, lambda info: info.in_state)
        return {**settings, "seed": self.seed, "fingerprints": self.task.fingerprints}

    def _refuse_other_settings(self, of_state: dict[str, Any]) -> None:
        others = [name for name, value in self._settings().items() if of_state.get(name) != value]
        if others:
            raise StoreError(
                f"{self.folder} holds a run with other settings: "
                + ", ".join(f"{name} was {of_state.get(name)}, is {self._settings()[name]}" for name in others),
                next_command="the same command with the settings of that run, or with --set name=ANOTHER",
            )


def proxy_evaluation_at(task: RetrievalTask, outer_step: int) -> RetrievalTask:
    """The task with the students that an evaluation at this outer step trains: fewer and shorter at the first rung.

    The rung is a property of the study, so trials that are compared at a step are all scored alike.
    """
    study = task.study
    evaluation = study.evaluation
    if (
        evaluation.proxy_epochs is None
        or outer_step > study.search.grace_evaluations * study.distillation.evaluate_every
    ):
        return task
    changed = evaluation.model_copy(
        update={"num_students": 1, "epochs": min(evaluation.proxy_epochs, evaluation.epochs)}
    )
    return replace(task, study=study.model_copy(update={"evaluation": changed}))


def mean_of(scores: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    """The mean of each recall over students."""
    return RetrievalMetrics(*np.mean([list(vars(score).values()) for score in scores], axis=0).tolist())


def _means(reports: list[StepReport]) -> dict[str, float]:
    rows = [report.as_dict() for report in reports]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
