"""The protocol of trackers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study

State = Literal["finished", "stopped", "failed", "interrupted"]
"""State of an ended trial or study; ``stopped``: by the scheduler, ``interrupted``: it can be resumed."""


Kind = Literal["study", "distill", "experts"]
"""Subject of a record: a search, one distillation, or the training of experts."""


def kind_of(command: str) -> Kind:
    """The kind of record of a command line, from its verb."""
    verb = next((word for word in command.split() if word != "rayvldd"), "").removeprefix("rv.")
    if verb == "distill":
        return "distill"
    return "experts" if verb == "experts" else "study"


@dataclass(frozen=True)
class Origins:
    """Inputs of a study, trial or evaluation, identified by content."""

    fingerprints: Mapping[str, str]
    """Fingerprints of ``data``, ``image_encoder`` and ``text_encoder``."""
    expert_set: str = ""
    """Key of the expert set; empty if there is none, or more than one."""


@dataclass(frozen=True)
class Scores:
    """Scores of new students of one set of pairs, synthetic or real, on a split."""

    kind: Literal["evaluation", "coreset", "full_data"]
    """Synthetic pairs, real pairs, or all real pairs."""
    name: str
    """Displayed name of the set, e.g. ``100 pairs, herding``."""
    study: Study
    """The study at the point of the students' settings."""
    command: str
    """The user's command line."""
    split: str
    students: tuple[Mapping[str, float], ...]
    """The recalls of each student by name, in percent."""
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    """Other properties that distinguish this set, e.g. the coreset method and the number of pairs."""
    origins: Origins = field(default_factory=lambda: Origins({}))
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers other than the recalls, e.g. seconds."""


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of another study, read from a tracker."""

    name: str
    """Study and trial, e.g. ``quickstart/trial_003``."""
    settings: dict[str, str]
    """All settings with a value, by dotted key, as texts."""
    fingerprints: dict[str, str]
    """Fingerprints of ``data``, ``image_encoder`` and ``text_encoder``."""
    state: str
    """``finished``, ``stopped`` or ``failed``; anything else has not ended."""
    best_val_mean_recall: float | None
    """In percent; None before the first evaluation."""
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    """Outer step and validation recall in percent of each evaluation, in order; empty if only the best is known."""

    @property
    def study(self) -> str:
        """Name of its study."""
        return self.name.rpartition("/")[0]


class Tracker(Protocol):
    """Records a study and its trials while they run.

    Only the driver has a tracker; actors and trials report to the driver. All calls may be repeated when a study is
    resumed: an existing trial is continued, and a step that was written before is not written twice.
    """

    uri: str
    """Location of the records, for the user."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Failed writes so far, each with its reason; they do not end the study."""
        ...

    def start_study(self, study: Study, command: str, *, was_ending: bool = False) -> None:
        """Open the record of a study, or continue the unfinished one of the same study and command.

        Args:
            study: The study.
            command: The user's command line; its first word, e.g. ``sweep``, is the kind of the record.
            was_ending: Whether an earlier session had begun to end the record, which may be a finished one already: it
                is continued.

        Raises:
            RayvlddError: if the record cannot be written; nothing else has been started by then.
        """
        ...

    def start_trial(self, trial_id: str, point: Mapping[str, SettingValue]) -> None:
        """Open the record of a trial with its searched settings, or continue the existing one."""
        ...

    def log_origins(self, trial_id: str | None, origins: Origins) -> None:
        """Write the origins of a trial or of the study."""
        ...

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a trial, or of the study itself, at a step."""
        ...

    def log_picture(self, trial_id: str, file: Path, step: int) -> None:
        """Write a picture of the set of a trial at a step, if the tracker shows pictures by step.

        The file stays where it is until the study has ended.
        """
        ...

    def sampling_machine(self) -> AbstractContextManager[object]:
        """Record the use of this machine while a block runs, if the tracker shows it over time.

        A failed reading or write is logged, and ends neither the block nor the readings.
        """
        ...

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Close the record of a trial, with a folder of artifacts and tags, e.g. the reason of a failure."""
        ...

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Close the record of the study; open trials end as interrupted.

        If the artifacts of a finished study are a distilled set that is better than its initial pairs, and the tracker
        has a model registry, the set is registered under the name of the study. The call waits a limited time for an
        unavailable server.
        """
        ...

    def log_scores(self, scores: Scores) -> None:
        """Write an evaluation of one set as a separate record."""
        ...
