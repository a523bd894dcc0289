"""Comparison of sets by number of pairs: distilled sets, coresets of the same size, and the full data."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.config.setting import changed_from
from rayvldd.evaluation.intervals import interval_if_enough
from rayvldd.records.difference import Difference
from rayvldd.records.full_data import ChosenRecipe
from rayvldd.records.json_values import JsonValue
from rayvldd.records.set_scores import (
    CoresetScores,
    EvaluatedCoreset,
    EvaluatedSet,
    Scored,
    SetScores,
    name_in_order,
    short_names,
)
from rayvldd.reports.page.study_report import StudyReport

Key = tuple[str, ...]
"""Conditions of measurement; only recalls with the same key are compared."""

Identity = tuple[object, ...]
"""Kind, size and all recalls of a set's students."""


@dataclass(frozen=True)
class SizePoint:
    """Recall of one kind of set at one number of pairs."""

    kind: str
    """``distilled``, or the coreset method."""
    num_pairs: int
    name: str
    """Name of the study or the set; for real pairs the study that evaluated them, or empty."""
    mean: float
    """Mean recall on test in percent."""
    interval: tuple[float, float] | None
    """95 % interval over students; None for fewer than three."""
    num_students: int | None = None
    recalls: Mapping[str, float] = field(default_factory=dict)
    """The six recalls of the mean, if known."""
    over: Mapping[Identity, Difference] = field(default_factory=dict)
    """Differences to real pairs on the same images, if known, by `identity` of these."""

    @property
    def identity(self) -> Identity:
        """Equal for points of the same students: seeds are deterministic, so that every command scores them alike."""
        recalls = tuple(sorted((name, round(value, 6)) for name, value in self.recalls.items()))
        return self.kind, self.num_pairs, self.num_students, round(self.mean, 6), recalls

    @property
    def words(self) -> str:
        """The point in one line."""
        return f"{self.num_pairs} pairs, {self.kind}: {self.recall}" + (f" ({self.name})" if self.name else "")

    @property
    def recall(self) -> str:
        """Mean and interval."""
        return f"{self.mean:.1f}" + _in_brackets(self.interval)


@dataclass(frozen=True)
class Bound:
    """Recall on the full data."""

    mean: float
    interval: tuple[float, float] | None
    num_models: int | None = None
    recalls: Mapping[str, float] = field(default_factory=dict)
    recipe: ChosenRecipe | None = None

    @property
    def words(self) -> str:
        """The bound in one line."""
        recipe = f"; {self.recipe.words}" if self.recipe else ""
        return f"full data: {self.mean:.1f}{_in_brackets(self.interval)}{recipe}"


def _in_brackets(interval: tuple[float, float] | None) -> str:
    return f" ({interval[0]:.1f} to {interval[1]:.1f})" if interval else " (interval: too few to say)"


@dataclass
class ComparableSets:
    """Studies and evaluated sets that were measured under the same conditions."""

    measured_on: tuple[str, ...]
    points: list[SizePoint]
    bound: Bound | None


def comparable_sets(
    studies: Sequence[StudyReport], coresets: Sequence[CoresetScores] = (), evaluations: Sequence[SetScores] = ()
) -> list[ComparableSets]:
    """Group all sets by their conditions of measurement; groups without a distilled set are left out."""
    by_study: dict[Key, list[StudyReport]] = {}
    for report in studies:
        if report.result is not None:
            by_study.setdefault(report.comparable, []).append(report)
    evaluated, bounds = _evaluated_points(evaluations)
    groups = []
    for key in dict.fromkeys([*by_study, *evaluated]):
        members = by_study.get(key, [])
        points = _without_repeats([*_study_points(members, coresets), *evaluated.get(key, [])])
        if any(point.kind == "distilled" for point in points):
            measured_on = members[0].measured_on if members else key[:-1]
            points.sort(key=lambda point: (point.num_pairs, -point.mean))
            groups.append(ComparableSets(measured_on, points, _bound_of(members) or bounds.get(key)))
    return groups


def _study_points(studies: Iterable[StudyReport], coresets: Sequence[CoresetScores]) -> list[SizePoint]:
    points = []
    for study in studies:
        assert study.result is not None
        tested, pairs = study.result.test, study.result.num_pairs
        students = tested.num_students
        own = {key: value for key, value in tested.model_dump().items() if "_to_" in key and value is not None}
        drawn = tested.students.get("random", [])
        known = tested.recalls.get("random", {})
        interval = interval_if_enough(drawn)
        random = SizePoint("random", pairs, study.name, tested.random_mean_recall, interval, len(drawn) or None, known)
        over = {random.identity: tested.over_random} if tested.over_random else {}
        points.append(
            SizePoint("distilled", pairs, study.name, tested.mean_recall, tested.interval, students, own, over)
        )
        points.append(random)
        for scores in coresets:
            if scores.study == study.name:
                changed = changed_from(study.settings, scores.settings)
                name = _with_changed(study.name, changed)
                found = [_point(row.method, row.num_pairs, name, row) for row in scores.coresets]
                # The study has random pairs of its own, scored as its set was.
                points += [p for p in found if changed or (p.kind, p.num_pairs) != ("random", pairs)]
    return points


def _evaluated_points(evaluations: Sequence[SetScores]) -> tuple[dict[Key, list[SizePoint]], dict[Key, Bound]]:
    """Points of sets on their own encoder, with their baselines; other encoders belong to the transfer matrix."""
    names = names_of_sets(evaluations)
    points: dict[Key, list[SizePoint]] = {}
    bounds: dict[Key, Bound] = {}
    for evaluation in evaluations:
        for row in evaluation.sets:
            if not row.is_transferred:
                over = {_real_point(real).identity: value for real, value in _differences(evaluation, row)}
                point = _point(
                    "distilled", row.num_pairs, _with_changed(names[row.distilled_set], row.changed), row, over
                )
                points.setdefault(row.comparable, []).append(point)
        for real in evaluation.coresets:
            points.setdefault(real.comparable, []).append(_real_point(real))
        for full in evaluation.full_data:
            recalls = {key: value for key, value in full.mean.items() if key != MEAN_RECALL.name}
            bounds[full.comparable] = Bound(
                full.mean_recall, full.mean_interval, full.num_students, recalls, full.recipe
            )
    return points, bounds


def _differences(evaluation: SetScores, row: EvaluatedSet) -> Iterator[tuple[EvaluatedCoreset, Difference]]:
    """The coresets of an evaluation that a set was compared with on the same images, and the differences."""
    known = {(real.coreset, real.trained_with): real for real in evaluation.coresets}
    for found in evaluation.differences:
        real = known.get((found.coreset, found.trained_with))
        if real and (found.distilled_set, found.trained_with) == (row.distilled_set, row.trained_with):
            yield real, found


def names_of_sets(evaluations: Sequence[SetScores]) -> dict[str, str]:
    """Displayed names of the evaluated sets by location, and of sets in order by the name of their row."""
    rows = [row for found in evaluations for row in found.sets]
    names = short_names(list(dict.fromkeys(place for row in rows for place in row.set_sizes)))
    in_order = {
        row.distilled_set: name_in_order([names[place] for place in row.set_sizes], row.later_rate or 1.0)
        for row in rows
        if row.in_order
    }
    return names | in_order


def _with_changed(name: str, changed: Mapping[str, JsonValue]) -> str:
    """A name with the settings that students had in place of those of its card or study."""
    return ", ".join([name, *(f"{key}={json.dumps(value)}" for key, value in changed.items())])


def _point(
    kind: str, num_pairs: int, name: str, row: Scored, over: Mapping[Identity, Difference] | None = None
) -> SizePoint:
    recalls = {key: value for key, value in row.mean.items() if key != MEAN_RECALL.name}
    return SizePoint(kind, num_pairs, name, row.mean_recall, row.mean_interval, row.num_students, recalls, over or {})


def _real_point(real: EvaluatedCoreset) -> SizePoint:
    return _point(real.method, real.num_pairs, "", real)


def _without_repeats(points: Iterable[SizePoint]) -> list[SizePoint]:
    """One point for the same students, scored twice, with the differences of both."""
    seen: dict[Identity, SizePoint] = {}
    for point in points:
        first = seen.setdefault(point.identity, point)
        seen[point.identity] = replace(first, over={**point.over, **first.over})
    return list(seen.values())


def _bound_of(studies: Sequence[StudyReport]) -> Bound | None:
    """Mean recall on the full data over all models of these studies."""
    tests = [study.result.test for study in studies if study.result]
    models = [recall for tested in tests for recall in tested.students.get("full_data", [])]
    if not models:
        return None
    recalls = tests[0].recalls.get("full_data", {}) if len(tests) == 1 else {}
    interval = interval_if_enough(models)
    recipes = [tested.full_data_recipe for tested in tests]
    recipe = recipes[0] if all(other == recipes[0] for other in recipes) else None  # of other seeds, it may differ
    return Bound(sum(models) / len(models), interval, len(models), recalls, recipe)


Standing = Literal["better", "ahead", "shown", "not shown", "unsure", "not better"]
"""Result of a comparison with real pairs. ``shown`` and ``not shown``: by the difference on the same images; without it
``better`` and ``ahead``: intervals apart or overlapping. ``unsure``: no intervals."""

_SENTENCES: dict[Standing, str] = {
    "shown": "The distilled set is better",
    "not shown": "The distilled set is ahead, but not shown to be better",
    "better": "The distilled set is better: the intervals do not overlap.",
    "ahead": "The distilled set is ahead, but the intervals overlap.",
    "unsure": "The distilled set is ahead; fewer than three sets or students are too few to say whether it is better.",
    "not better": "The distilled set is not better.",
}
_APART = "the intervals do not overlap"
_PAIRED = "on the same images"
_PHRASES: dict[Standing, str] = {
    "shown": f"is better than the best of them {_PAIRED}",
    "not shown": f"is ahead of the best of them, but not shown to be better {_PAIRED}",
    "better": f"is better than the best of them, and {_APART}",
    "ahead": "is ahead of the best of them, but the intervals overlap",
    "unsure": "is ahead of the best of them, without intervals to compare",
    "not better": "is not better than the best of them",
}


def verdicts(points: Sequence[SizePoint]) -> list[str]:
    """One sentence for each distilled set: whether it is better than the best coreset of the same size."""
    sentences = []
    for point, best, methods in _duels(points):
        among = "" if methods == 1 else f", the best of {methods} coresets"
        standing, known = _standing(point, best)
        ending = f": {known.words} {_PAIRED}." if known and standing in ("shown", "not shown") else ""
        sentences.append(
            f"{point.name}, {point.num_pairs} distilled pairs: {point.recall}; {best.kind} pairs{among}: "
            f"{best.recall}. {_SENTENCES[standing]}{ending}"
        )
    return sentences


def verdict_over_sizes(points: Sequence[SizePoint]) -> str:
    """Whether the best distilled set is better than the best coreset at every size; empty for a single size."""
    by_size: dict[int, Standing] = {}
    best_mean: dict[int, float] = {}
    for point, rival, _ in _duels(points):
        if point.mean > best_mean.get(point.num_pairs, -1.0):
            best_mean[point.num_pairs] = point.mean
            by_size[point.num_pairs] = _standing(point, rival)[0]
    if len(by_size) < 2:
        return ""
    sizes: dict[Standing, list[str]] = {}
    for size, standing in sorted(by_size.items()):
        sizes.setdefault(standing, []).append(str(size))
    if sizes.keys() <= {"better", "shown"}:
        numbers = _listed([str(size) for size in sorted(by_size)])
        basis = _APART if "better" in sizes else f"the interval of the difference {_PAIRED} is above 0"
        return f"At every number of pairs ({numbers}) the distilled set is better than the best real pairs: {basis}."
    parts = [f"at {_listed(numbers)} pairs it {_PHRASES[standing]}" for standing, numbers in sizes.items()]
    return f"The distilled set does not beat real pairs at every number of pairs: {'; '.join(parts)}."


def _duels(points: Sequence[SizePoint]) -> Iterable[tuple[SizePoint, SizePoint, int]]:
    """Each distilled set with the best coreset of its size, and the number of coreset methods."""
    for point in points:
        rivals = [other for other in points if other.kind != "distilled" and other.num_pairs == point.num_pairs]
        if point.kind == "distilled" and rivals:
            yield point, max(rivals, key=lambda rival: rival.mean), len({rival.kind for rival in rivals})


def _standing(point: SizePoint, rival: SizePoint) -> tuple[Standing, Difference | None]:
    """The result of a comparison, and the difference on the same images if it is known."""
    known = point.over.get(rival.identity)
    if point.mean <= rival.mean:
        return "not better", known
    if known is not None and known.interval is not None:
        return ("shown" if known.is_better else "not shown"), known
    if point.interval is None or rival.interval is None:
        return "unsure", known
    return ("better" if point.interval[0] > rival.interval[1] else "ahead"), known


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
