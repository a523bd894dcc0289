"""Scores of distilled sets and coresets: the object of ``rayvldd evaluate --json`` and ``rayvldd coreset --json``.

Both commands also save it in the workspace for ``rayvldd compare``, under a name that is a hash of the evaluation's
inputs, so that a repeated evaluation replaces the earlier one.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, ClassVar, Generic, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.errors import ConfigError, Fault
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.difference import Difference
from rayvldd.records.form import FORMAT, Record, Values
from rayvldd.records.full_data import ChosenRecipe
from rayvldd.records.json_values import JsonObject, JsonValue
from rayvldd.storage.json_files import json_value

ALL_PAIRS = "all pairs"
"""Name of the row of the full-data bound."""

Interval = tuple[float, float] | None
"""95 % interval of a mean over students; None for fewer than three."""


def _with_mean_recall(mean: dict[str, float]) -> dict[str, float]:
    if MEAN_RECALL.name not in mean:
        raise ValueError(f"no {MEAN_RECALL.name}")
    return mean


class Scored(Values):
    """Recalls of the students of one training set, in percent."""

    num_students: int
    mean: Annotated[dict[str, float], AfterValidator(_with_mean_recall)]
    """Values by recall, e.g. ``text_to_image_r5``, and ``mean_recall``."""
    std: dict[str, float | None] = Field(default_factory=dict)
    """Standard deviations over students; None if there was one."""
    interval: dict[str, Interval]
    share_of_full_data: float | None = None
    """Mean recall divided by that of models trained on all pairs."""

    @property
    def mean_recall(self) -> float:
        """Mean of the six recalls, in percent."""
        return self.mean[MEAN_RECALL.name]

    @property
    def mean_interval(self) -> Interval:
        """Interval of the mean recall."""
        return self.interval.get(MEAN_RECALL.name)


class ScoredCoreset(Scored):
    """Real pairs."""

    method: str
    num_pairs: int
    rate: ChosenRate | None = None
    """Learning rate of the students, chosen on validation."""


class Conditions(Values):
    """Conditions of the measurement of a row or a table."""

    measured_on: tuple[str, ...]
    trained_with: str
    """Name of the students' image encoder in tables."""
    base: str
    """Equal for all rows of one transfer matrix."""


class _Evaluated(Scored, Conditions):
    image_encoder: str
    protocol: str = ""
    fingerprints: dict[str, str]

    @property
    def comparable(self) -> tuple[str, ...]:
        """Key of comparable rows, equal to that of comparable studies."""
        return (*self.measured_on, self.fingerprints.get("data", ""))


class SetInOrder(Values):
    """One of several sets that students were trained on one after another."""

    distilled_set: str
    """Location as given by the user."""
    num_pairs: int
    lr_student_image: float
    """Learning rate of the students on this set."""
    lr_student_text: float


class EvaluatedSet(_Evaluated):
    """A distilled set, or several that the students were trained on one after another."""

    distilled_set: str
    """Location as given by the user: a folder or a URI; of several sets the name of :func:`name_in_order`."""
    num_pairs: int
    """Of several sets the sum."""
    made_with: str
    """The image encoder that it was distilled with."""
    lr_student_image: float | None = None
    """None for several sets."""
    lr_student_text: float | None = None
    text_conversion: str | None = None
    """How the caption embeddings were converted for another text encoder; None if it was that of the set."""
    in_order: list[SetInOrder] = Field(default_factory=list)
    """The sets in the order of training; empty for a single one."""
    later_rate: float | None = None
    """Factor on the learned rates of all of these sets but the first."""
    changed: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of data, model and students that the set's card has otherwise, by dotted key; encoders not included."""

    @property
    def set_sizes(self) -> dict[str, int]:
        """Number of pairs by location of each set."""
        return {one.distilled_set: one.num_pairs for one in self.in_order} or {self.distilled_set: self.num_pairs}

    @property
    def rates(self) -> list[JsonValue]:
        """Learning rates of the students, image and text, of each set in order."""
        parts: list[JsonValue] = [[one.lr_student_image, one.lr_student_text] for one in self.in_order]
        return parts or [[self.lr_student_image, self.lr_student_text]]

    @property
    def is_transferred(self) -> bool:
        """Whether the students had another encoder than those of the set."""
        return self.made_with != self.image_encoder or self.text_conversion is not None


class EvaluatedCoreset(_Evaluated, ScoredCoreset):
    """A coreset of the same size."""

    coreset: str = ""
    """Name of its row in the table."""


class ScoredBound(Scored):
    """All pairs."""

    recipe: ChosenRecipe | None = None
    """The recipe of the models, chosen on validation."""


class EvaluatedBound(_Evaluated, ScoredBound):
    """All pairs, as the bound of evaluated sets."""

    sets: list[str] = Field(default_factory=list)
    """The sets for which it is the bound."""


class SetDifference(Difference):
    """A distilled set minus a coreset of the same size, on the same images."""

    distilled_set: str
    coreset: str
    trained_with: str


class GroupRecall(Values):
    """Recall of the captions of one group, in percent by training set of the students."""

    by: str
    group: str
    num_captions: int
    recall: dict[str, float]


class SubjectKept(Values):
    """Frequency of a subject, as fractions from 0 to 1; see ``evaluation/breakdown.py``."""

    name: str
    data: float
    start: float | None
    kept: float
    interval: tuple[float, float]
    differs: bool


class Breakdown(Conditions):
    """Recall by group of captions, and subjects of the captions."""

    recalls: list[GroupRecall]
    subjects: dict[str, list[SubjectKept]]
    """By set."""


class ProbeScore(Values):
    """A number of the students of one training set on further inputs."""

    trained_on: str
    """Name of the training set in tables."""
    probe: str
    """Name of the inputs in tables."""
    metric: str
    num_students: int
    """0 for a reference value without students."""
    mean: float
    interval: Interval = None


class FurtherScores(Conditions):
    """Scores of students on other inputs than the split: distorted images, other data."""

    evaluation: str
    """Name of its option, e.g. ``robustness``."""
    title: str
    """Title of its table."""
    about: dict[str, str | int | float] = Field(default_factory=dict)
    """Properties of the inputs."""
    scores: list[ProbeScore]
    """In the order of the table's rows, and within a row of its columns."""
    notes: list[str] = Field(default_factory=list)
    """Sentences below the table."""


class SetScores(Record):
    """The scores of an evaluation of distilled sets."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the scores of an evaluation"
    remedy: ClassVar[str] = "rayvldd evaluate SET..., which scores the sets again"
    kind: ClassVar[str] = "evaluation"
    command: str
    split: str
    sets: list[EvaluatedSet] = Field(min_length=1)
    coresets: list[EvaluatedCoreset]
    full_data: list[EvaluatedBound]
    differences: list[SetDifference] = Field(default_factory=list)
    """Of every set and every coreset of its size, in mean recall."""
    breakdown: list[Breakdown] = Field(default_factory=list)
    further: list[FurtherScores] = Field(default_factory=list)
    in_workspace: dict[str, str] | None = None
    """In the workspace's file: sets by location that are in the workspace, with their path there."""

    @property
    def identity(self) -> JsonObject:
        """The inputs of the evaluation, without its results."""
        rows: list[JsonValue] = [
            [row.distilled_set, row.trained_with, row.num_students, row.rates, row.base] for row in self.sets
        ]
        rows += [[row.coreset, row.trained_with, row.num_students] for row in self.coresets]
        identity: JsonObject = {"split": self.split, "rows": rows, "breakdown": bool(self.breakdown)}
        if self.further:
            identity["further"] = [[found.evaluation, {**found.about}] for found in self.further]
        return identity


class CoresetScores(Record):
    """The scores of coresets of a study."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the scores of coresets"
    remedy: ClassVar[str] = "rayvldd coreset STUDY, which scores them again"
    kind: ClassVar[str] = "coresets"
    study: str
    split: str
    base: str = ""
    """Hash of the settings of data, model and students."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of data, model and students by dotted key, without encoders."""
    coresets: list[ScoredCoreset]
    full_data: ScoredBound | None = None

    @property
    def identity(self) -> JsonObject:
        """The inputs of the evaluation, without its results."""
        rows: list[JsonValue] = [[row.method, row.num_pairs, row.num_students] for row in self.coresets]
        return {"study": self.study, "split": self.split, "base": self.base, "rows": rows}


Scores = TypeVar("Scores", CoresetScores, SetScores)


class _Form(Generic[Scores]):
    """A kind of file and the command that writes it."""

    def __init__(self, model: type[Scores], command: str) -> None:
        self.model: type[Scores] = model
        self.command = command

    def read(self, files: Iterable[Path], *, whole: bool = False) -> tuple[list[Scores], list[Fault]]:
        """Read files; also return a fault for every file with another content, or with scores on validation.

        Args:
            files: The files.
            whole: Whether the object is the whole file, not its last line.
        """
        allowed = f"the output of `{self.command} --json`"
        read: list[Scores] = []
        faults: list[Fault] = []
        for file in files:
            try:
                text = file.read_text(encoding="utf-8").strip()
                if not text:
                    faults.append(Fault(str(file), "not readable: it is empty", allowed))
                    continue
                content = text if whole else text.split("\n")[-1]
                if fault := _fault_of_format(json_value(content), str(file), self.model.version):
                    faults.append(fault)
                    continue
                found = self.model.model_validate_json(content)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                faults.append(Fault(str(file), f"not its object: {where}: {first['msg']}", allowed))
            except (OSError, ValueError) as error:
                faults.append(Fault(str(file), f"not readable: {error}", allowed))
            else:
                if found.split != "test":
                    faults.append(
                        Fault(str(file), f"scored on {found.split}", "scores on test, which the studies have")
                    )
                read.append(found)
        return read, faults


def _fault_of_format(values: object, file: str, version: int) -> Fault | None:
    """The fault of an object without a format version, or with that of another release."""
    allowed = f"format {version}, of this release"
    if not isinstance(values, dict) or FORMAT not in values:
        return Fault(file, "it names no version of its format: an earlier release or another program wrote it", allowed)
    if values[FORMAT] != version:
        return Fault(file, f"has format {values[FORMAT]!r}, of another release", allowed)
    return None


_CORESETS = _Form(CoresetScores, "rayvldd coreset STUDY")
_EVALUATIONS = _Form(SetScores, "rayvldd evaluate SET...")


def read_scores(
    coreset_files: Iterable[Path] = (), evaluation_files: Iterable[Path] = ()
) -> tuple[list[CoresetScores], list[SetScores]]:
    """Read files with the output of ``rayvldd coreset --json`` and ``rayvldd evaluate --json``.

    Raises:
        ConfigError: listing every file with another content, or with scores on validation.
    """
    coresets, faults = _CORESETS.read(coreset_files)
    evaluations, more = _EVALUATIONS.read(evaluation_files)
    if faults or more:
        command = _CORESETS.command if faults else _EVALUATIONS.command
        raise ConfigError([*faults, *more], next_command=f"{command} --split test --json > FILE")
    return coresets, evaluations


def keep_scores(scores: CoresetScores | SetScores, folder: Path) -> Path:
    """Write scores to the workspace's folder of scores, replacing those of the same evaluation."""
    name = hashlib.sha256(json.dumps(scores.identity, sort_keys=True).encode()).hexdigest()[:12]
    file = folder / f"{scores.kind}-{name}.json"
    if isinstance(scores, SetScores):
        inside = _paths_in(folder.parent, (place for row in scores.sets for place in row.set_sizes))
        scores.model_copy(update={"in_workspace": inside} if inside else {}).write(file)
    else:
        scores.write(file)
    return file


def kept_scores(folder: Path) -> tuple[list[CoresetScores], list[SetScores], list[str]]:
    """The scores on test that :func:`keep_scores` wrote, latest last, and a message for every unreadable file."""
    coresets, faults = _CORESETS.read(_by_time(folder.glob(f"{CoresetScores.kind}-*.json")), whole=True)
    evaluations, more = _EVALUATIONS.read(_by_time(folder.glob(f"{SetScores.kind}-*.json")), whole=True)
    on_test = [found for found in coresets if found.split == "test"]
    evaluated = [_at_present(found, folder.parent) for found in evaluations if found.split == "test"]
    unread = [str(fault) for fault in (*faults, *more) if not fault.problem.startswith("scored on")]
    return on_test, evaluated, unread


def _by_time(files: Iterable[Path]) -> list[Path]:
    """Files by the time at which they were written, by name if that is the same."""
    return sorted(files, key=lambda file: (file.stat().st_mtime, file.name))


def _paths_in(workspace: Path, places: Iterable[str]) -> dict[str, str]:
    """Locations of sets that are in a workspace, with their path there."""
    whole = {place: Path(whole_place(place)) for place in places if ":/" not in place}
    root = Path(whole_place(str(workspace)))
    return {place: path.relative_to(root).as_posix() for place, path in whole.items() if root in path.parents}


def _at_present(scores: SetScores, workspace: Path) -> SetScores:
    """Scores with the present locations of sets in a workspace that was moved or copied."""
    root = Path(whole_place(str(workspace)))
    inside = {place: root / path for place, path in (scores.in_workspace or {}).items()}
    now = {place: str(path) for place, path in inside.items() if whole_place(place) != str(path) and path.is_dir()}
    if not now:
        return scores
    for row in scores.sets:
        if row.in_order:  # their row has a name of all locations
            places = [now.get(place, place) for place in row.set_sizes]
            now[row.distilled_set] = name_in_order(places, row.later_rate or 1.0)
    return SetScores.model_validate_json(json.dumps(_renamed(scores.as_json(), now)))


def _renamed(value: JsonValue, names: Mapping[str, str]) -> JsonValue:
    """A value of JSON with other names for some texts and keys."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def rows_of_set(evaluations: Iterable[SetScores], place: str) -> list[EvaluatedSet | EvaluatedBound]:
    """The rows of a set in evaluations, each followed by that of its bound if there is one.

    Args:
        evaluations: Scores of evaluations.
        place: Location of the set as the user gives it.
    """
    rows: list[EvaluatedSet | EvaluatedBound] = []
    for found in evaluations:
        for row in found.sets:
            if whole_place(row.distilled_set) == whole_place(place):
                rows.append(row)
                rows += [bound for bound in found.full_data if bound.sets and row.distilled_set in bound.sets]
    return rows


def whole_place(place: str) -> str:
    """The location of a set without the working folder; a URI as it is."""
    # Path.resolve would follow links, and show other paths than the user's.
    return place if ":/" in place else os.path.abspath(place)  # noqa: PTH100


def short_names(places: Sequence[str]) -> dict[str, str]:
    """Short distinct names of sets: the last parts of their locations, and more than only ``best``."""
    whole = {place: whole_place(place) for place in places}
    parts = {place: PurePath(path).parts for place, path in whole.items()}
    lengths = {place: 2 if of_place[-1] in ("best", "distilled_set") else 1 for place, of_place in parts.items()}
    while True:
        names = {place: str(PurePath(*parts[place][-lengths[place] :])) for place in parts}
        taken = list(names.values())
        alike = [place for place in parts if taken.count(names[place]) > 1 and lengths[place] < len(parts[place])]
        if not alike:
            return names
        for place in alike:
            lengths[place] += 1


def name_in_order(names: Sequence[str], later_rate: float) -> str:
    """Name of the row of students that are trained on sets one after another.

    Args:
        names: Of the sets in the order of training.
        later_rate: Factor on the learning rates of all sets but the first.
    """
    joined = ", then ".join(names)
    return joined if later_rate == 1 else f"{joined} (later rates times {later_rate:g})"
