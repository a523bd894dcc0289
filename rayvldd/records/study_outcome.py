"""The outcome of a finished study: ``result.json``, and the object of ``rayvldd sweep --json``."""

from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from rayvldd.config.domains import SettingValue
from rayvldd.printable import counted
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.difference import Difference
from rayvldd.records.form import Record, Values
from rayvldd.records.full_data import ChosenRecipe
from rayvldd.records.gain import RatesToTry

Interval = tuple[float, float]
"""Ends of a 95 % interval, in percent."""


class ChosenTrial(Values):
    """The trial that validation chose; recalls in percent."""

    trial_id: str
    config: dict[str, SettingValue]
    """The searched settings by dotted key."""
    outer_step: int
    val_mean_recall: float
    """Of the sets of the chosen point, by which it was chosen."""
    search_val_mean_recall: float | None = None
    """Of the trial during the search."""
    diagnostics: dict[str, float] = Field(default_factory=dict)
    """Diagnostics of the chosen set by name, e.g. the concentration of its images."""


class FrontRow(Values):
    """A trial of the Pareto front. The values of the study's objectives, by name, are beside these fields."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    trial_id: str
    config: dict[str, SettingValue]
    """The searched settings by dotted key."""

    @property
    def objectives(self) -> dict[str, float]:
        """The values of the study's objectives by name."""
        return self.__pydantic_extra__


class _NamedSet(Values):
    """Name and seed of a set of a finalist."""

    name: str
    seed: int


class SetOnValidation(Values):
    """How a distillation at a finalist's point ended; recalls in percent, means over students."""

    state: Literal["finished", "failed"]
    reason: str | None = None
    """Of a failed one: why, for the user."""
    outer_step: int | None = None
    """The outer step of the best set."""
    val_image_to_text_r1: float | None = None
    val_image_to_text_r5: float | None = None
    val_image_to_text_r10: float | None = None
    val_text_to_image_r1: float | None = None
    val_text_to_image_r5: float | None = None
    val_text_to_image_r10: float | None = None
    val_mean_recall: float | None = None
    students: list[float] | None = None
    """Mean recalls of the single students."""

    @model_validator(mode="after")
    def _has_what_its_state_requires(self) -> Self:
        if self.state == "finished" and self.val_mean_recall is None:
            raise ValueError("a finished set has no recall on validation")
        if self.state == "failed" and self.reason is None:
            raise ValueError("a failed set has no reason")
        return self

    @property
    def numbers(self) -> dict[str, float]:
        """The recalls on validation by name, for trackers."""
        return {name: value for name, value in self if name.startswith("val_") and isinstance(value, int | float)}


class FinalistSet(SetOnValidation, _NamedSet):
    """One set that a finalist's point made of another seed."""

    @classmethod
    def of(cls, name: str, seed: int, scores: SetOnValidation) -> Self:
        """The row of a set with these scores."""
        return cls.model_validate({"name": name, "seed": seed, **scores.model_dump()})


def words_of_failed(failed: int, total: int) -> str:
    """How many of some distillations failed, beside the mean over the others; empty if none did."""
    return f"{failed} of {total} failed" if failed else ""


class FinalistOutcome(Values):
    """One of the best trials, and the sets that its point made of other seeds; recalls in percent."""

    trial_id: str
    config: dict[str, SettingValue]
    search_val_mean_recall: float
    val_mean_recall: float | None
    """Mean over the sets that finished; None if none did."""
    val_interval: Interval | None
    """Of the mean over the finished sets; None for fewer than three."""
    sets: list[FinalistSet]

    @property
    def num_failed(self) -> int:
        """How many distillations failed."""
        return sum(one.state == "failed" for one in self.sets)

    @property
    def words_of_failed(self) -> str:
        """How many of the distillations failed, if any did: "1 of 3 failed"."""
        return words_of_failed(self.num_failed, len(self.sets))


class SetOnTest(Values):
    """One distilled set on the test split; recalls in percent."""

    mean_recall: float
    students: list[float]


class ScoresOnTest(Values):
    """The one evaluation on the test split; recalls in percent, means over students."""

    mean_recall: float
    interval: Interval | None
    """None for fewer than three sets or, of one set, students."""
    interval_over: str = "students"
    """``sets`` where there are several, else ``students``."""
    num_sets: int = 1
    """Sets that the chosen point made, each of another seed."""
    num_students: int
    """Of each set."""
    random_mean_recall: float
    """Of as many random pairs."""
    over_random: Difference | None = None
    """Distilled minus random pairs on the same test images; None in a file of an earlier release."""
    full_data_mean_recall: float
    num_full_data_models: int | None = None
    full_data_recipe: ChosenRecipe | None = None
    """The recipe of the models of all pairs, chosen on validation."""
    random_rate: ChosenRate | None = None
    """The learning rate of students on random pairs, chosen on validation."""
    share_of_full_data: float
    sets: list[SetOnTest] = Field(default_factory=list)
    students: dict[str, list[float]] = Field(default_factory=dict)
    """Mean recalls of single students on ``distilled``, ``random`` and ``full_data``."""
    recalls: dict[str, dict[str, float]] = Field(default_factory=dict)
    """The recalls on ``random`` and ``full_data``."""
    image_to_text_r1: float | None = None
    image_to_text_r5: float | None = None
    image_to_text_r10: float | None = None
    text_to_image_r1: float | None = None
    text_to_image_r5: float | None = None
    text_to_image_r10: float | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """The single numbers by name, for trackers."""
        return {name: value for name, value in self if isinstance(value, int | float)}

    @property
    def sets_and_students(self) -> str:
        """The size of the evaluation in words."""
        return f"{counted(self.num_sets, 'set')} × {self.num_students} students"


class Seeds(Values):
    """The seeds from which the result can be repeated."""

    study: int
    sampler: int
    best_trial: int
    finalists: dict[str, int]
    test_students: list[int]


class Made(Values):
    """Where, when and by which code a study was finished."""

    machine: str = ""
    """CPUs and GPUs of the machine or cluster, with their names."""
    date: str = ""
    """Day of the end, ``YYYY-MM-DD``."""
    code: str = ""
    """The release, and the commit if it is known."""


class LearnedStudy(Values):
    """An earlier study that a search has learned from."""

    study: str
    trials: int
    """Its trials in or near the space of this study."""
    weight: float
    """Its weight after the last trial, from 0 to 1; 0: it was dropped."""
    content: str
    """Hash of its trials."""


class StudyOutcome(Record):
    """The outcome of a finished study."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the result of a study"
    remedy: ClassVar[str] = "move {file} away and repeat the command: finished trials and the test are kept"

    study: str
    protocol: str = ""
    num_pairs: int
    num_train_images: int | None = None
    """Training images that the set stands for; None in a file of an earlier release."""
    trials: dict[str, int]
    """Number of trials by state."""
    best: ChosenTrial
    front: list[FrontRow] | None = None
    """The Pareto front of a study with several objectives."""
    finalists: list[FinalistOutcome] = Field(default_factory=list)
    test: ScoresOnTest
    test_evaluations: int = 1
    """How often sets of this study were evaluated on the test split."""
    importance: dict[str, float] = Field(default_factory=dict)
    """Share of the variance of validation recall that each setting explains."""
    importance_among_good: dict[str, float] = Field(default_factory=dict)
    """Share of each setting in what makes a trial one of the best."""
    distilled_set: str = ""
    """Folder of the chosen set."""
    tracking_uri: str = ""
    seconds: dict[str, float] = Field(default_factory=dict)
    """By stage, and in ``total``."""
    seeds: Seeds | None = None
    made: Made | None = None
    learned_from: list[LearnedStudy] | None = None
    """Earlier studies; None if there were none."""
    rates_to_try: RatesToTry | None = None
    """If nothing rose above its start: rates around those that came nearest to it."""

    @property
    def sets_and_students(self) -> str:
        """The size of the test in words, with the distillations at the chosen point that failed and are not in it."""
        words = [self.test.sets_and_students, self.words_of_failed]
        return ", ".join(word for word in words if word)

    @property
    def words_of_failed(self) -> str:
        """How many distillations at the chosen point failed; empty if none did."""
        return next((row.words_of_failed for row in self.finalists if row.trial_id == self.best.trial_id), "")
