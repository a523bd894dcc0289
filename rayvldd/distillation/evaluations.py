"""Evaluate a distillation on the validation split, keep its best set, and save and resume its state."""

import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.config.setting import flat_settings, selected
from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import DivergedError, StoreError
from rayvldd.evaluation.diagnostics import diagnostics
from rayvldd.evaluation.metric import mean_over_students, metrics_by_name
from rayvldd.evaluation.scoring import score
from rayvldd.evaluation.students import evaluate_pairs, mean_of, train_students
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import student_seeds
from rayvldd.records.json_values import JsonValue
from rayvldd.storage.atomic import write_text_whole
from rayvldd.storage.json_files import json_text
from rayvldd.storage.tensor_source import DamagedFileError, checksum

PROGRESS = "progress.json"
BEST = "best"
_COLLAPSED = 2
"""Consecutive evaluations far below the initial recall after which a run is stopped."""


FirstRecalls = MutableMapping[str, dict[str, float]]
"""Validation recalls of initial sets by their identity, for runs that begin with the same pairs and students."""


class Progress(BaseModel):
    """What is saved of a run beside the state of the outer loop, ``progress.json``."""

    # The numbers of a step that diverged may be infinite.
    model_config = ConfigDict(strict=True, extra="ignore", ser_json_inf_nan="constants")

    state: str
    """Name of the file with the state of the same moment."""
    outer_step: int
    settings: dict[str, JsonValue]
    """The settings that a saved state must match."""
    best_recall: float
    start_recall: float
    evaluations_below: int
    seconds_matching: float
    seconds_evaluating: float
    steps: list[dict[str, float]]
    """The logged numbers since the last evaluation."""
    checksum: str = ""
    """Of everything else."""

    def sealed(self) -> "Progress":
        """The same with its checksum."""
        content = self.model_dump_json(exclude={"checksum"})
        return self.model_copy(update={"checksum": xxhash.xxh3_128_hexdigest(content.encode())})

    @classmethod
    def read(cls, content: bytes) -> "Progress | None":
        """Parse the file; None if it is damaged, or of an earlier release, whose files have no checksum."""
        try:
            progress = cls.model_validate_json(content)
        except ValidationError:
            return None
        return progress if progress.checksum == progress.sealed().checksum else None


_KEPT = ("best_recall", "start_recall", "evaluations_below", "seconds_matching", "seconds_evaluating", "steps")
"""Attributes of a run that are saved as its progress."""


@dataclass(frozen=True)
class EvaluationResult:
    """The synthetic set at one outer step, scored on validation."""

    outer_step: int
    metrics: dict[str, float]
    """Losses and step sizes (means since the last evaluation), validation recalls in percent, seconds."""
    is_best: bool
    """Whether validation recall is the highest so far."""
    distilled_set: DistilledSet


@runtime_checkable  # for runtime type checks of signatures in tests
class Checkpointed(Protocol):
    """Interface of the outer loop for evaluations."""

    outer_step: int
    fingerprints: dict[str, str]
    """Fingerprints of data and encoders."""

    def distilled_set(self, metrics: dict[str, float] | None = None) -> DistilledSet:
        """The set after the steps so far, with the metrics on its card."""
        ...

    def save(self, path: Path) -> None:
        """Write the state from which the run can go on."""
        ...

    def restore(self, path: Path) -> None:
        """Go on from a state that was written."""
        ...


class EvaluatedRun:
    """State of a run between evaluations, in addition to the state of the outer loop."""

    def __init__(
        self,
        study: Study,
        task: RetrievalTask,
        loop: Checkpointed,
        seed: int,
        folder: Path | None,
        on_evaluation: Callable[[EvaluationResult], None] | None = None,
        first_recalls: FirstRecalls | None = None,
    ) -> None:
        self.study, self.task, self.loop, self.seed, self.folder = study, task, loop, seed, folder
        self._on_evaluation, self._first_recalls = on_evaluation, first_recalls
        self.best_recall = self.start_recall = -1.0
        self.evaluations_below = 0
        self.seconds_matching = self.seconds_evaluating = 0.0
        self.steps: list[Mapping[str, float]] = []
        self._saved_at = time.monotonic()
        self._further_metrics = metrics_by_name(study.evaluation.further_metrics)

    @contextmanager
    def timed_matching(self) -> Iterator[None]:
        """Measure the seconds of an outer step."""
        started = time.perf_counter()
        yield
        self.seconds_matching += time.perf_counter() - started

    def add(self, numbers: Mapping[str, float]) -> None:
        """Add the logged numbers of an outer step, and save the state if the last time was long ago."""
        self.steps.append(numbers)
        if time.monotonic() - self._saved_at >= 60 * self.study.resources.checkpoint_minutes:
            self._save_state()

    def evaluate(self) -> EvaluationResult:
        """Score the current set, and save the state and the best set."""
        started = time.perf_counter()
        recalls = self._known_recalls()
        self.seconds_evaluating += time.perf_counter() - started
        mean_recall = recalls[VAL_MEAN_RECALL]
        is_best = mean_recall > self.best_recall
        if not self.loop.outer_step:
            self.start_recall = mean_recall
        self.evaluations_below = self.evaluations_below + 1 if mean_recall < self._floor() else 0
        self.best_recall = max(self.best_recall, mean_recall)
        metrics = {
            **_means(self.steps),
            **recalls,
            **diagnostics(self.task, self.loop.distilled_set().pairs(self.task)),
            BEST_VAL_MEAN_RECALL: self.best_recall,
            "seconds_matching": self.seconds_matching,
            "seconds_evaluating": self.seconds_evaluating,
        }
        evaluation = EvaluationResult(self.loop.outer_step, metrics, is_best, self.loop.distilled_set(metrics))
        self.steps = []
        if self._on_evaluation:
            self._on_evaluation(evaluation)
        if evaluation.is_best and self.folder is not None:
            evaluation.distilled_set.save(self.folder / BEST)
        self._save_state()
        return evaluation

    def _floor(self) -> float:
        """Return half of the initial recall; 0 if that was close to chance, as with noise."""
        chance = 100 * np.mean([1, 5, 10]) / self.task.val.num_images
        return self.start_recall / 2 if self.start_recall > 3 * chance else 0.0

    def raise_if_collapsed(self) -> None:
        """Raise if two consecutive evaluations were far below the initial recall.

        Raises:
            DivergedError: if the validation recall has stayed below half of the initial recall.
        """
        if self.evaluations_below < _COLLAPSED:
            return
        raise DivergedError(
            f"distillation diverged before outer step {self.loop.outer_step}: validation recall has stayed below "
            f"half of the start's {self.start_recall:.2f} for {self.evaluations_below} evaluations, with "
            f"{rates_of(self.study.distillation)}",
            next_command=SMALLER_RATES,
        )

    def _known_recalls(self) -> dict[str, float]:
        """Return the validation recalls; those of an initial set are computed once for all runs that share it."""
        if self.loop.outer_step or self._first_recalls is None:
            return self._validation_recalls()
        identity = self._identity()
        if identity not in self._first_recalls:
            self._first_recalls[identity] = self._validation_recalls()
        return self._first_recalls[identity]

    def _identity(self) -> str:
        """Return the identity of everything that determines the validation recalls of the current set."""
        pairs = self.loop.distilled_set().pairs(self.task)
        similarity = None if pairs.similarity is None else checksum(pairs.similarity)
        content = [checksum(pairs.images), checksum(pairs.texts), similarity, pairs.lr_image, pairs.lr_text]
        settings = self.study.model_dump(mode="json", include={"seed", "data", "model", "evaluation"})
        proxy = self.study.evaluation_at(self.loop.outer_step).model_dump(mode="json")
        known = [*content, pairs.pair_loss, settings, proxy, {**self.task.fingerprints}]
        return xxhash.xxh3_128_hexdigest(json_text(known))

    def _validation_recalls(self) -> dict[str, float]:
        """Return the mean over students; their seeds are fixed, so differences come from the set."""
        evaluation = self.study.evaluation_at(self.loop.outer_step)
        pairs = self.loop.distilled_set().pairs(self.task)
        seeds = student_seeds(self.study.seed, evaluation.num_students)
        if not self._further_metrics:
            return mean_of(evaluate_pairs(self.task, pairs, self.task.val, evaluation, seeds)).as_dict("val_")
        students = list(train_students(self.task, pairs, evaluation, seeds))
        recalls = mean_of([score(self.task, student, self.task.val) for student in students])
        further = mean_over_students(self._further_metrics, self.task, students, self.task.val)
        return {**{f"val_{name}": value for name, value in further.items()}, **recalls.as_dict("val_")}

    def _save_state(self) -> None:
        self._saved_at = time.monotonic()
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = f"state-{self.loop.outer_step:06d}.safetensors"
        self.loop.save(self.folder / state)
        progress = Progress(
            state=state,
            outer_step=self.loop.outer_step,
            settings=self._settings(),
            best_recall=self.best_recall,
            start_recall=self.start_recall,
            evaluations_below=self.evaluations_below,
            seconds_matching=self.seconds_matching,
            seconds_evaluating=self.seconds_evaluating,
            steps=[dict(numbers) for numbers in self.steps],
        )
        write_text_whole(self.folder / PROGRESS, progress.sealed().model_dump_json())
        # Two processes may work at one run: the first was cut off from the cluster, or stopped and woken. Later states
        # are another's, and it may be about to name them.
        for earlier in self.folder.glob("state-*.safetensors"):
            if earlier.name < state:
                earlier.unlink(missing_ok=True)

    def resume(self) -> bool:
        """Resume from the state in the folder. If there is none, or it is damaged, the run begins again."""
        if self.folder is None or not (self.folder / PROGRESS).is_file():
            return False
        progress = Progress.read((self.folder / PROGRESS).read_bytes())
        if progress is None:
            return False
        self._refuse_other_settings(progress.settings)
        try:
            self.loop.restore(self.folder / Path(progress.state).name)
        except (DamagedFileError, FileNotFoundError):
            # Damaged; or another process at the same run was further and took the state for an earlier one.
            return False
        for kept in _KEPT:
            setattr(self, kept, getattr(progress, kept))
        return True

    def _settings(self) -> dict[str, JsonValue]:
        """Return the settings that a saved state must match; the number of steps and the engine may change."""
        settings = flat_settings(selected(self.study.distillation, lambda info: info.in_state))
        return {**settings, "seed": self.seed, "fingerprints": {**self.loop.fingerprints}}

    def _refuse_other_settings(self, of_state: dict[str, JsonValue]) -> None:
        others = [name for name, value in self._settings().items() if of_state.get(name) != value]
        if others:
            raise StoreError(
                f"{self.folder} holds a run with other settings: "
                + ", ".join(f"{name} was {of_state.get(name)}, is {self._settings()[name]}" for name in others),
                next_command="the same command with the settings of that run, or with --set name=ANOTHER",
            )


SMALLER_RATES = "the same command with smaller --set distillation.lr_image=… or distillation.lr_text=…"


def rates_of(settings: DistillationSettings) -> str:
    """Format the settings that most likely caused a divergence, for messages."""
    section = settings.section()
    own = [f"{name}={getattr(section, name):g}" for name in settings.declaration.decides_divergence]
    return ", ".join([f"lr_image={settings.lr_image:g}", f"lr_text={settings.lr_text:g}", *own])


def _means(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]} if steps else {}
