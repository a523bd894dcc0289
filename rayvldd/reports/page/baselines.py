"""Sets beside each other by their number of pairs: distilled, real pairs of the same number, and the full data."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rayvldd.errors import ConfigError, Fault
from rayvldd.evaluation.intervals import t_interval
from rayvldd.reports.page.study_report import StudyReport


@dataclass(frozen=True)
class SizePoint:
    """Recall of one kind of set at one number of pairs."""

    kind: str
    """``distilled``, or the coreset method."""
    num_pairs: int
    study: str
    mean: float
    """Mean recall on test in percent."""
    interval: tuple[float, float] | None
    """95 % of it over students; None where there was one student."""

    @property
    def words(self) -> str:
        """The point in one line."""
        return f"{self.num_pairs} pairs, {self.kind}: {self.recall} ({self.study})"

    @property
    def recall(self) -> str:
        """Mean and interval."""
        return f"{self.mean:.1f}" + (f" ({self.interval[0]:.1f} to {self.interval[1]:.1f})" if self.interval else "")


class _Coreset(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    method: str
    num_pairs: int
    mean: dict[str, float]
    interval: dict[str, tuple[float, float] | None]


class CoresetScores(BaseModel):
    """What ``rayvldd coreset STUDY --json`` ends with."""

    model_config = ConfigDict(extra="ignore")

    study: str
    split: str
    coresets: list[_Coreset]

    def points(self) -> list[SizePoint]:
        """The scores as points."""
        return [
            SizePoint(row.method, row.num_pairs, self.study, row.mean["mean_recall"], row.interval.get("mean_recall"))
            for row in self.coresets
        ]


def read_coreset_scores(files: Iterable[Path]) -> list[CoresetScores]:
    """Read what ``rayvldd coreset --json`` wrote into files.

    Raises:
        ConfigError: listing every file that holds something else, or scores on validation.
    """
    allowed, scores, faults = "what `rayvldd coreset STUDY --json` prints", [], []
    for file in files:
        try:
            found = CoresetScores.model_validate(json.loads(file.read_text(encoding="utf-8").strip().splitlines()[-1]))
        except (OSError, ValueError, IndexError, ValidationError) as error:
            what = "not its object" if isinstance(error, ValidationError) else str(error)
            faults.append(Fault(str(file), f"not readable: {what}", allowed))
            continue
        if found.split != "test":
            faults.append(Fault(str(file), f"scored on {found.split}", "scores on test, which the studies have"))
        if any("mean_recall" not in row.mean for row in found.coresets):
            faults.append(
                Fault(str(file), "a coreset without mean_recall", "what `rayvldd coreset STUDY --json` prints")
            )
        scores.append(found)
    if faults:
        raise ConfigError(faults, next_command="rayvldd coreset STUDY --split test --json > FILE")
    return scores


def points_of(studies: Sequence[StudyReport], coresets: Sequence[CoresetScores]) -> list[SizePoint]:
    """Every set of these studies and its baselines, by number of pairs."""
    points = []
    for study in studies:
        if study.result is None:
            continue
        tested, pairs = study.result.test, study.result.num_pairs
        points.append(SizePoint("distilled", pairs, study.name, tested.mean_recall, tested.interval))
        random = tested.students.get("random", [])
        points.append(SizePoint("random", pairs, study.name, tested.random_mean_recall, _interval(random)))
        given = [point for scores in coresets if scores.study == study.name for point in scores.points()]
        points += [point for point in given if (point.kind, point.num_pairs) != ("random", pairs)]  # the study has them
    return sorted(points, key=lambda point: (point.num_pairs, -point.mean))


def bound_of(studies: Sequence[StudyReport]) -> tuple[float, float, float] | None:
    """Mean recall on the full data and its interval over all its models; the mean alone where there is but one."""
    models = [recall for study in studies if study.result for recall in study.result.test.students.get("full_data", [])]
    if not models:
        return None
    mean = sum(models) / len(models)
    return mean, *(_interval(models) or (mean, mean))


def verdicts(points: Sequence[SizePoint]) -> list[str]:
    """For each distilled set one sentence: whether it beats the best real pairs of the same number, or not."""
    sentences = []
    for point in points:
        rivals = [other for other in points if other.kind != "distilled" and other.num_pairs == point.num_pairs]
        if point.kind == "distilled" and rivals:
            best = max(rivals, key=lambda rival: rival.mean)
            methods = len({rival.kind for rival in rivals})
            among = "" if methods == 1 else f", the best of {methods} coresets"
            sentences.append(
                f"{point.study}, {point.num_pairs} distilled pairs: {point.recall}; {best.kind} pairs{among}: "
                f"{best.recall}. {_verdict(point, best)}"
            )
    return sentences


def _verdict(point: SizePoint, rival: SizePoint) -> str:
    if point.mean <= rival.mean:
        return "The distilled set is not better."
    if point.interval is None or rival.interval is None:
        return "The distilled set is ahead; a single student gives no interval."
    if point.interval[0] > rival.interval[1]:
        return "The distilled set is better: the intervals do not overlap."
    return "The distilled set is ahead, but the intervals overlap."


def _interval(recalls: Sequence[float]) -> tuple[float, float] | None:
    return t_interval(recalls) if len(recalls) > 1 else None
