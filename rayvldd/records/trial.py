"""One trial of a search: its point, state and evaluations.

A trial has a folder. ``trial.json`` contains point, seed, state and the version of the format; ``evaluations.jsonl``
contains one line for each evaluation, in order. The folder also has ``checkpoint/`` while the trial runs, ``pictures/``
of a few outer steps, and ``artifacts/``.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.records.form import FORMAT, FileForm, Values, words_of
from rayvldd.storage.atomic import append_line, write_text_whole
from rayvldd.storage.json_files import write_json_whole

Ended = Literal["finished", "stopped", "failed"]
"""``stopped``: ended early by the stopping rule or the time budget; ``failed``: diverged or lost. All are final."""

TrialState = Literal["running"] | Ended

VERSION = 1
"""Version of the format of a trial's folder."""

RECORD, EVALUATIONS = "trial.json", "evaluations.jsonl"

SEARCH_SECONDS = "search_seconds"
"""Name of :attr:`Evaluation.search_seconds` in trackers."""
_SECONDS = ("seconds_matching", "seconds_evaluating")
"""Names of the seconds that a trial had spent at an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """The synthetic set of a trial at one outer step, scored on validation."""

    outer_step: int
    metrics: Mapping[str, float]
    """Declared metrics and diagnostics, by name; recalls in percent."""
    search_seconds: float = 0.0
    """Duration of the search at this evaluation, over all sessions, in seconds."""

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric]

    @property
    def recall(self) -> float:
        """Validation recall in percent; trials are compared by it."""
        return self.metrics[VAL_MEAN_RECALL]

    @property
    def seconds(self) -> float | None:
        """Seconds of distillation and evaluation of the trial so far; None if they were not measured."""
        parts = [self.metrics[name] for name in _SECONDS if name in self.metrics]
        return sum(parts) if parts else None

    @property
    def seconds_evaluating(self) -> float:
        """Seconds that this evaluation and those before it took; 0 if they were not measured."""
        return self.metrics.get("seconds_evaluating", 0.0)

    def numbers(self) -> dict[str, float]:
        """All numbers by name, for trackers."""
        return {**self.metrics, SEARCH_SECONDS: self.search_seconds}


class Prediction(Values):
    """The recall at the last outer step that a sampler's model predicted when it proposed a trial, in percent."""

    recall: float
    sd: float
    """Standard deviation, with the noise of an evaluation."""


@dataclass
class Trial:
    """One trial: a point, and the state and evaluations of its distillation."""

    trial_id: str
    number: int
    seed: int
    """Seed of the distillation's random numbers."""
    point: dict[str, SettingValue]
    """The searched settings by dotted key."""
    folder: Path
    state: TrialState = "running"
    reason: str = ""
    """Why it failed or was stopped, for the user."""
    evaluations: list[Evaluation] = field(default_factory=list)
    process_died: bool = False
    """Whether a failed trial's process died too often, as of a lost node: then it is no information about its point."""
    is_requested: bool = False
    """Whether a user proposed the point while the study existed."""
    prediction: Prediction | None = None
    """Prediction of the sampler's model; None for samplers without such a model, and before it has enough trials."""

    @property
    def checkpoint(self) -> Path:
        """State of the distillation for resuming it."""
        return self.folder / "checkpoint"

    @property
    def artifacts(self) -> Path:
        """Files of an ended trial, also logged to the tracker."""
        return self.folder / "artifacts"

    def picture(self, outer_step: int) -> Path:
        """The picture of the set at an outer step, which exists for a few of them."""
        return picture_at(self.folder, outer_step)

    @property
    def distilled_set(self) -> Path:
        """The best set of a trial that ended."""
        return self.artifacts / "distilled_set"

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest validation recall, the earliest in a tie."""
        return max(self.evaluations, key=lambda evaluation: evaluation.recall, default=None)

    @property
    def is_candidate(self) -> bool:
        """Whether the trial can be the best one: it did not fail and has an evaluation."""
        return self.state != "failed" and bool(self.evaluations)

    @property
    def outer_step(self) -> int:
        """The last outer step that was evaluated, -1 before the first."""
        return self.evaluations[-1].outer_step if self.evaluations else -1

    @property
    def seconds(self) -> float | None:
        """Seconds of distillation and evaluation so far; None if they were not measured."""
        return self.evaluations[-1].seconds if self.evaluations else None

    def value(self, metric: str = VAL_MEAN_RECALL) -> float | None:
        """A metric at the best evaluation; None if there is no evaluation or the metric was not measured."""
        return self.best.metrics.get(metric) if self.best else None

    def add(self, evaluation: Evaluation) -> bool:
        """Append an evaluation to the trial and its file; return False if its outer step is already recorded."""
        if evaluation.outer_step <= self.outer_step:
            return False
        self.evaluations.append(evaluation)
        append_line(self.folder / EVALUATIONS, json.dumps({**vars(evaluation), "metrics": dict(evaluation.metrics)}))
        return True

    def write(self) -> None:
        """Write point and state; evaluations are appended by :meth:`add`."""
        values = {name: getattr(self, name) for name in _TrialValues.model_fields}
        values["prediction"] = self.prediction.model_dump() if self.prediction else None
        write_json_whole(self.folder / RECORD, {FORMAT: VERSION, **values})

    @classmethod
    def read(cls, folder: Path, *, repair: bool = False) -> Self:
        """Read a trial from its folder.

        Args:
            folder: Folder of the trial.
            repair: Whether an incomplete last line is also removed from the file; only for the process that writes
                the file.

        Raises:
            StoreError: if a file cannot be read, or was written by a newer release.
        """
        values = _FORM.read(folder / RECORD)
        if values.trial_id != folder.name:
            raise _FORM.unreadable(folder / RECORD, f"it is that of {values.trial_id}")
        evaluations = read_evaluations(folder / EVALUATIONS, repair=repair)
        return cls(**dict(values), folder=folder, evaluations=evaluations)


def picture_at(folder: Path, outer_step: int) -> Path:
    """File of the picture of the set at an outer step, in the folder of a trial."""
    return folder / "pictures" / f"{outer_step:06d}.png"


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that can be the best, by descending validation recall; ties in the given order.

    This is the only definition of the order of trials. Failed trials and those without an evaluation are excluded.
    """
    candidates = [(best.recall, trial) for trial in trials if trial.is_candidate and (best := trial.best)]
    return [trial for _, trial in sorted(candidates, key=lambda known: (-known[0], known[1].number))]


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The first of :func:`best_first`."""
    return next(iter(best_first(trials)), None)


def in_order_of_recall(trials: Sequence[Trial]) -> list[Trial]:
    """All trials for display, including failed ones, by descending recall; those without an evaluation last."""
    return sorted(trials, key=lambda trial: trial.best.recall if trial.best else -1.0, reverse=True)


def trial_id_of(number: int) -> str:
    """Name of a trial, of its folder and of its run in the tracker."""
    return f"trial_{number:03d}"


class _TrialValues(BaseModel):
    """``trial.json``."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    trial_id: str
    number: int
    seed: int
    point: dict[str, SettingValue]
    state: TrialState
    reason: str
    process_died: bool = False
    is_requested: bool = False
    prediction: Prediction | None = None


def _with_recall(metrics: dict[str, float]) -> dict[str, float]:
    recall = metrics.get(VAL_MEAN_RECALL)
    if recall is None or not math.isfinite(recall):
        raise ValueError(f"no {VAL_MEAN_RECALL}")
    return metrics


class _EvaluationValues(BaseModel):
    """A line of ``evaluations.jsonl``. Diagnostics such as losses may be infinite or not a number."""

    model_config = ConfigDict(strict=True, extra="ignore")

    outer_step: int
    metrics: Annotated[dict[str, float], AfterValidator(_with_recall)]
    search_seconds: float


_FORM = FileForm(
    _TrialValues, VERSION, "the record of a trial", "move {folder} away and repeat the command: the trial runs again"
)
_LINE = TypeAdapter(_EvaluationValues)


def read_evaluations(file: Path, *, repair: bool) -> list[Evaluation]:
    """Read the evaluations of a trial or of one distillation; none if there is no file.

    Args:
        file: Its complete lines are read; a last line without a newline is incomplete.
        repair: Whether an incomplete last line is also removed from the file.

    Raises:
        StoreError: if the file cannot be read.
    """
    if not file.is_file():
        return []
    try:
        text = file.read_text(encoding="utf-8")
        whole, _, cut_off = text.rpartition("\n")
        lines = [_LINE.validate_json(line) for line in whole.split("\n")] if whole else []
    except ValidationError as error:
        raise _FORM.unreadable(file, words_of(error)) from None
    except (OSError, ValueError) as error:
        raise _FORM.unreadable(file, str(error)) from None
    if cut_off and repair:
        write_text_whole(file, f"{whole}\n" if whole else "")
    return [Evaluation(**dict(line)) for line in lines]
