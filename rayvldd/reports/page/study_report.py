"""Reading of a study's folder for the page, even if the study is unfinished or damaged.

Nothing is written, because a sweep may be running in the folder. Unreadable files become messages in ``faults``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import RayvlddError, without_next_command
from rayvldd.hyperparameter_search.ledger import read_trials
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.json_values import JsonObject, JsonValue, value_at
from rayvldd.records.set_card import OriginCard
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.trial import Trial, best_of
from rayvldd.reports.measured_on import measured_on

State = Literal["finished", "unfinished", "damaged"]
"""``damaged``: the study is finished, but its result cannot be read."""

T = TypeVar("T")


@dataclass(frozen=True)
class PairCaptions:
    """Captions of a pair before and after distillation."""

    start: str
    nearest: str
    similarity: float | None
    """Cosine between the embedding and that of the nearest caption."""


@dataclass
class StudyReport:
    """One study, as far as its folder can be read."""

    name: str
    root: Path
    result: StudyOutcome | None = None
    settings: JsonObject = field(default_factory=dict)
    """Those in ``study.json``."""
    study: Study | None = None
    """The same, where it is a study for this release."""
    trials: list[Trial] = field(default_factory=list)
    """Trials by number, without damaged ones."""
    commands: list[str] = field(default_factory=list)
    distilled: DistilledSet | None = None
    """The chosen set; for an unfinished study that of the best ended trial, if it is saved."""
    faults: list[str] = field(default_factory=list)
    claims_a_result: bool = False

    @property
    def captions(self) -> list[PairCaptions]:
        """One per pair; empty if the set has no file of captions."""
        return captions_of(self.distilled)

    @property
    def state(self) -> State:
        """State of the study."""
        if self.result is None:
            return "damaged" if self.claims_a_result or not self.settings else "unfinished"
        return "finished"

    @property
    def best_trial(self) -> Trial | None:
        """The chosen trial, or the best one so far."""
        if self.result is not None:
            return next((trial for trial in self.trials if trial.trial_id == self.result.best.trial_id), None)
        return best_of(self.trials)

    @property
    def card(self) -> OriginCard | None:
        """The card of the chosen set, if it names an origin."""
        card = self.distilled.card if self.distilled else None
        return card if isinstance(card, OriginCard) else None

    def setting(self, *keys: str) -> JsonValue:
        """A setting of the study by its path; from the chosen set's card if there is one, since it may be searched."""
        found = value_at(self.card.study, *keys) if self.card else None
        return value_at(self.settings, *keys) if found is None else found

    @property
    def measured_on(self) -> tuple[str, ...]:
        """Data, image size, encoders and protocol as texts; recalls are comparable only if they are equal."""
        protocol = self.result.protocol if self.result else ""
        return measured_on({"data": self.setting("data"), "model": self.setting("model")}, protocol)

    @property
    def comparable(self) -> tuple[str, ...]:
        """Key of comparable studies: conditions of measurement and fingerprint of the data."""
        return (*self.measured_on, self.card.fingerprints["data"] if self.card else "")


def read_study(root: Path) -> StudyReport:
    """Read the folder of a study; errors are listed in ``faults`` and not raised."""
    folder, report = StudyFolder(root), StudyReport(root.name, root)
    report.settings = _tried(report, "study.json", folder.saved_settings) or {}
    if report.settings:
        report.study = _tried(report, "study.json", lambda: Study.model_validate(report.settings))
    report.claims_a_result = folder.result_file.is_file()
    if report.claims_a_result:
        report.result = _tried(report, "result.json", folder.result)
    report.trials, faults = read_trials(folder.trials)
    report.faults += faults
    report.commands = _tried(report, "commands.json", folder.commands) or []
    best = report.best_trial
    place = folder.best if folder.best.is_dir() else best.distilled_set if best else None
    if place is not None and (place.is_dir() or report.claims_a_result):
        report.distilled = _tried(report, place.name, lambda: DistilledSet.load(place))
    return report


def captions_of(distilled: DistilledSet | None) -> list[PairCaptions]:
    """Captions of the pairs of a set; empty if it has no file of captions."""
    rows = distilled.nearest_captions if distilled else []
    return [PairCaptions(row["start"], row["nearest"], row["similarity"]) for row in rows]


def _tried(report: StudyReport, what: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        report.faults.append(f"{what}: {error.error_count()} values do not fit, first {where}: {first['msg']}")
    except (RayvlddError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        report.faults.append(f"{what}: {without_next_command(error)}")
    return None
