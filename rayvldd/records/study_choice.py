"""Records of a study between its search and its result: scores of finalists' sets, the choice, and the test."""

from typing import ClassVar

from pydantic import Field

from rayvldd.config.domains import SettingValue
from rayvldd.records.form import Record
from rayvldd.records.study_outcome import FinalistOutcome, FrontRow, ScoresOnTest, SetOnValidation


class FinalistScores(SetOnValidation, Record):
    """The end of one distillation of a finalist, ``scores.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the scores of a finalist's set"
    remedy: ClassVar[str] = "move {folder} away and repeat the command: the set is distilled again"


class StudyChoice(Record):
    """The point that validation chose, ``choice.json``; written before the test evaluation."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the choice of a study"
    remedy: ClassVar[str] = "move {file} away and repeat the command: the point is chosen again on validation"

    trial_id: str
    point: dict[str, SettingValue]
    """The searched settings by dotted key."""
    outer_step: int
    """The outer step of the best set of the trial in the search."""
    search_val_mean_recall: float
    """Validation recall of the trial in the search, in percent."""
    finalists: list[FinalistOutcome]
    """Empty for a study without finalists."""
    sets: list[str] = Field(min_length=1)
    """Names of the tested sets, of which the first is the best one."""
    front: list[FrontRow] | None = None
    """The Pareto front of a study with several objectives."""

    @property
    def val_mean_recall(self) -> float:
        """The recall by which the point was chosen: that of its finalist or, without finalists, of its trial."""
        again = [one.val_mean_recall for one in self.finalists if one.trial_id == self.trial_id]
        return next((recall for recall in again if recall is not None), self.search_val_mean_recall)


class StudyTest(Record):
    """The one evaluation on the test split, ``test.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the test evaluation of a study"
    remedy: ClassVar[str] = (
        "put {file} back from a copy; or move it away and repeat the command, which is a further test evaluation"
    )

    num_pairs: int
    """Of each set."""
    num_train_images: int | None = None
    """Training images at the chosen point; None in a file of an earlier release."""
    seeds: list[int]
    """Of the students, set by set."""
    scores: ScoresOnTest
