"""Concurrent training and scoring of the students of several sets and coresets on one split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rayvldd.config.settings import MAX_MODELS
from rayvldd.config.study import Study
from rayvldd.records.set_scores import Scored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rayvldd.console import ProgressDisplay
    from rayvldd.coresets.selection import Coreset
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.records.coreset_rate import ChosenRate
    from rayvldd.records.full_data import FullDataChoice
    from rayvldd.runtime.evaluation import StudentScores, StudentSpec
    from rayvldd.workspace import Workspace


Split = Literal["val", "test"]


@dataclass(frozen=True)
class Chosen:
    """Coresets of one size, selected by one method, one for every student."""

    method: str
    num_pairs: int
    coresets: Sequence["Coreset"]
    rate: "ChosenRate"
    """Learning rate of their students, chosen on validation."""

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.num_pairs} pairs, {self.method}"

    def jobs(self, seeds: Sequence[int]) -> list["StudentSpec"]:
        """One student for each coreset."""
        from rayvldd.runtime.evaluation import StudentSpec

        rate = self.rate.learning_rate
        return [StudentSpec(coreset, seed, rate) for coreset, seed in zip(self.coresets, seeds, strict=True)]


def seeds_of_students(study: Study, split: str, count: int | None) -> list[int]:
    """Seeds of the students; on test they are those of a sweep's test, which is thereby reproduced."""
    from rayvldd.randomness import StudentPurpose, student_seeds

    num_students = count or study.evaluation.num_test_students
    purpose = StudentPurpose.TEST if split == "test" else StudentPurpose.VALIDATION
    return student_seeds(study.seed, num_students, purpose)


def full_data_jobs(choice: "FullDataChoice", seeds: Sequence[int]) -> list["StudentSpec"]:
    """The models of all pairs, with the first seeds, as in a sweep's test."""
    from rayvldd.runtime.evaluation import StudentSpec

    return [StudentSpec(choice, seed) for seed in seeds[:MAX_MODELS]]


def words_of_bound(study: Study, num_students: int) -> str:
    """The models of all pairs that a command trains, for its plan."""
    recipes, models = study.evaluation.full_data.num_recipes, min(num_students, MAX_MODELS)
    return (
        f"{recipes} to choose a recipe, one by each, then {models} by the best one; cached ones are not trained again"
    )


def words_of_rates(study: Study) -> str:
    """The learning rates that students on real pairs try, for the plan of a command."""
    rates = study.evaluation.lr_coreset
    if len(rates) == 1:
        return f"{rates[0]:g}"
    words = ", ".join(f"{rate:g}" for rate in rates)
    return f"the best of {words} on validation, tried by further students of each method and number of pairs"


def choose_coresets(
    study: Study,
    task: "RetrievalTask",
    workspace: "Workspace",
    methods: Sequence[str],
    numbers: Sequence[int],
    seeds: Sequence[int],
    display: "ProgressDisplay",
) -> list[Chosen]:
    """Select coresets by every method and of every size, once per seed, and the learning rates of their students.

    Incremental methods select only once per seed. Random pairs are sampled in this process, the
    others are selected concurrently.
    """
    from rayvldd.coresets.selection import NESTED_METHODS, choose_coreset
    from rayvldd.runtime.evaluation import CoresetChoice, choose_in_parallel, choose_rates

    def show(done: int, total: int) -> None:
        display.progress("choices of real pairs", done, total)

    def show_rates(done: int, total: int, _: float) -> None:
        display.progress("learning rates on real pairs", done, total)

    sizes = {method: [max(numbers)] if method in NESTED_METHODS else list(numbers) for method in methods}
    keys = [(method, number, seed) for method in methods for number in sizes[method] for seed in seeds]
    keys.sort(key=lambda key: not key[0].startswith("forgetting"))  # the longest first: they train experts
    drawn = [key for key in keys if key[0] == "random"]
    found = {key: choose_coreset(task, *key) for key in drawn}
    rest = [key for key in keys if key not in found]
    choices = [CoresetChoice(*key) for key in rest]
    found |= zip(rest, choose_in_parallel(study, workspace.cache, choices, show), strict=True)
    display.done()

    def coresets(method: str, number: int) -> list["Coreset"]:
        size = number if number in sizes[method] else max(numbers)
        return [found[method, size, seed].first(number) for seed in seeds]

    kinds = [(method, number) for number in numbers for method in methods]
    of_kinds = [coresets(*kind) for kind in kinds]
    rates = choose_rates(study, workspace.cache, of_kinds, show_rates)
    display.done()
    return [Chosen(*kind, found, rate) for kind, found, rate in zip(kinds, of_kinds, rates, strict=True)]


def score_sets(
    study: Study,
    task: "RetrievalTask",
    workspace: "Workspace",
    sets: "Mapping[str, Sequence[StudentSpec]]",
    split: Split,
    display: "ProgressDisplay",
    command: str,
) -> dict[str, list["StudentScores"]]:
    """Train and score the students of all sets concurrently, log each set, and return the scores by the set's name."""
    from rayvldd.library.score_log import score_log
    from rayvldd.runtime.evaluation import score_in_parallel

    def show(done: int, total: int, _: float) -> None:
        display.progress(f"students scored on {split}", done, total)

    jobs = [job for group in sets.values() for job in group]
    with score_log(study, task, workspace, split, sets, command) as log:
        found = iter(score_in_parallel(study, workspace.cache, jobs, split, show))
        display.done()
        by_set = {name: [next(found) for _ in group] for name, group in sets.items()}
        log({name: [scores.ranks.recalls() for scores in of_set] for name, of_set in by_set.items()})
    return by_set


def mean_recall_of(scores: Sequence["RetrievalMetrics"]) -> float:
    """Mean over students of the mean recall, in percent."""
    return sum(score.mean_recall for score in scores) / len(scores)


def summary_of_students(
    scores: Sequence["RetrievalMetrics"], full_data: Sequence["RetrievalMetrics"] | None = None
) -> Scored:
    """Mean, standard deviation and 95 % interval of each recall over students, in percent.

    There is no deviation for a single student, and no interval for fewer than three. With ``full_data``, also the
    fraction of its mean recall.
    """
    from statistics import fmean, stdev

    from rayvldd.evaluation.intervals import interval_if_enough

    rows = [score.as_dict() for score in scores]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    several = len(rows) > 1
    bound = mean_recall_of(full_data) if full_data else 0.0
    return Scored(
        num_students=len(rows),
        mean={name: fmean(values) for name, values in columns.items()},
        std={name: stdev(values) if several else None for name, values in columns.items()},
        interval={name: interval_if_enough(values) for name, values in columns.items()},
        share_of_full_data=mean_recall_of(scores) / bound if bound > 0 else None,
    )
