"""What every tracker can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rayvldd.config.domains import Scalar
from rayvldd.config.study import Study

State = Literal["finished", "stopped", "failed", "interrupted"]
"""How a trial or study ended; ``stopped`` is the scheduler's early stop, ``interrupted`` anything that can go on."""


@dataclass(frozen=True)
class Origins:
    """What a study, trial or evaluation was computed from, by content."""

    fingerprints: Mapping[str, str]
    """What data and encoders are: ``data``, ``image_encoder``, ``text_encoder``."""
    expert_set: str = ""
    """Key of the expert set; empty where there is none, or more than one."""


@dataclass(frozen=True)
class Scores:
    """How fresh students on one set of pairs, synthetic or real, did on a split."""

    kind: Literal["evaluation", "coreset", "full_data"]
    """Synthetic pairs, real pairs, or all of them."""
    name: str
    """What people call the set, e.g. ``100 pairs, herding``."""
    study: Study
    """The study at the point that students were trained at."""
    command: str
    """What was typed."""
    split: str
    students: tuple[Mapping[str, float], ...]
    """The recalls of each student by name, in percent."""
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    """What else tells this set from others, e.g. the coreset method and the number of pairs."""
    origins: Origins = field(default_factory=lambda: Origins({}))
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers beside the recalls, e.g. seconds."""


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of another study, as a tracker has kept it."""

    name: str
    """Study and trial, e.g. ``quickstart/trial_003``."""
    settings: dict[str, str]
    """Every setting that has a value, by dotted key, as the text of its parameter."""
    fingerprints: dict[str, str]
    """What data and encoders were: ``data``, ``image_encoder``, ``text_encoder``."""
    state: str
    """``finished``, ``stopped`` or ``failed``; anything else has not ended."""
    best_val_mean_recall: float | None
    """In percent; None before the first evaluation."""


class Tracker(Protocol):
    """Writes down a study and its trials while they run.

    Only the driver holds a tracker; actors and trials report to the driver. All calls may be repeated when an
    unfinished study continues: a trial that was written before is found again, and a step that was written before
    is not written twice.
    """

    uri: str
    """Where a person finds what was written."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What could not be written so far, each with its reason; the study goes on without it."""
        ...

    def start_study(self, study: Study, command: str) -> None:
        """Open the record of a study, or find the unfinished one of the same study and command.

        Args:
            study: The study.
            command: What was typed, kept for people; its first word, e.g. ``sweep``, tells what the record is of.

        Raises:
            RayvlddError: when the record cannot be written; nothing else was started by then.
        """
        ...

    def start_trial(self, trial_id: str, point: Mapping[str, Scalar]) -> None:
        """Open the record of a trial with the searched settings it runs at, or find it again."""
        ...

    def log_origins(self, trial_id: str | None, origins: Origins) -> None:
        """Write what a trial, or the study itself, is computed from."""
        ...

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a trial, or of the study itself, at a step."""
        ...

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Close the record of a trial with the content of a folder and tags, e.g. the reason of a failure."""
        ...

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Close the record of the study; trials that are still open end as interrupted.

        Where the artifacts of a finished study are a distilled set that is better than its starting pairs, and the
        tracker has a registry, the set is registered there under the name of the study. The call waits for a server
        that is away for a while.
        """
        ...

    def log_scores(self, scores: Scores) -> None:
        """Write an evaluation of one set as a record of its own, beside the studies."""
        ...
