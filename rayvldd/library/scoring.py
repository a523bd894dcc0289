"""Concurrent training and scoring of the students of several sets and coresets on one split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rayvldd.config.settings import MAX_MODELS, STUDENTS_FOR_RATE
from rayvldd.config.study import Study
from rayvldd.records.set_scores import ALL_PAIRS, Scored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rayvldd.console import ProgressDisplay
    from rayvldd.coresets.selection import Coreset
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.hyperparameter_search.parts_left import StudentsLeft
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
    """Learning rate and weight decay of their students, chosen on validation."""

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.num_pairs} pairs, {self.method}"

    def jobs(self, seeds: Sequence[int]) -> list["StudentSpec"]:
        """One student for each coreset."""
        from rayvldd.runtime.evaluation import StudentSpec

        rate, decay = self.rate.learning_rate, self.rate.weight_decay
        return [StudentSpec(coreset, seed, rate, decay) for coreset, seed in zip(self.coresets, seeds, strict=True)]


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
    """The learning rates and weight decays that students on real pairs try, for the plan of a command."""
    rates, decays = study.evaluation.lr_coreset, study.evaluation.weight_decay_coreset
    words = ", ".join(f"{rate:g}" for rate in rates)
    if decays:
        words += f" with weight decay {', '.join(f'{decay:g}' for decay in decays)}"
    if len(study.evaluation.recipes_on_coresets) == 1:
        return words
    return f"the best of {words} on validation, tried by further students of each method and number of pairs"


def students_left(
    study: Study,
    task: "RetrievalTask",
    workspace: "Workspace",
    num_students: int,
    *,
    sets: Sequence[int] = (),
    coresets: Sequence[int] = (),
    full_data: bool = True,
) -> "StudentsLeft":
    """The time that the students of an evaluation have left, before the first one is trained.

    Args:
        study: The study at one point.
        task: Its data and model.
        workspace: Has the cache, in which the recipe of the models of all pairs may be.
        num_students: Students of each set.
        sets: Number of pairs of each set.
        coresets: The same of each kind of coreset, whose students try learning rates first.
        full_data: Whether models of all pairs are trained, too.
    """
    from rayvldd.evaluation.full_data import recipes_of
    from rayvldd.hyperparameter_search.parts_left import StudentsLeft, work_of_training
    from rayvldd.runtime.full_data import has_chosen_recipe
    from rayvldd.runtime.resources import work_at_a_time

    settings, recipes = study.evaluation, recipes_of(study.evaluation)
    is_one = settings.full_data.captions_per_image == "one"
    num_all = task.train.num_images if is_one else len(task.train.caption_embeddings)
    of_models = [work_of_training(num_all, one.batch_size, one.epochs) for one in recipes]
    works = {_kind(size): work_of_training(size, settings.batch_size, settings.epochs) for size in (*sets, *coresets)}
    left = StudentsLeft({**works, ALL_PAIRS: sum(of_models) / len(of_models)}, work_at_a_time(study))
    num_rates = len(settings.recipes_on_coresets)
    tries = num_rates * min(STUDENTS_FOR_RATE, num_students) if num_rates > 1 else 0
    for size in sets:
        left.expect(_kind(size), num_students)
    for size in coresets:
        left.expect(_kind(size), num_students + tries)
    if full_data:
        is_chosen = has_chosen_recipe(study, workspace.cache, task.fingerprints)
        left.expect(ALL_PAIRS, min(num_students, MAX_MODELS) + (0 if is_chosen else len(recipes)))
    return left


def choose_recipe_in(
    study: Study, task: "RetrievalTask", workspace: "Workspace", display: "ProgressDisplay", left: "StudentsLeft"
) -> "FullDataChoice":
    """The recipe of the models of all pairs; models that are trained for the choice count for the time left."""
    from rayvldd.runtime.full_data import choose_recipe

    left.begin()
    return choose_recipe(
        study,
        workspace.cache,
        task.fingerprints,
        display,
        lambda _: display.of_phase(left.words()),
        lambda seconds: left.trained(ALL_PAIRS, seconds),
    )


def _kind(num_pairs: int) -> str:
    return f"{num_pairs} pairs"


def _kind_of(spec: "StudentSpec") -> str:
    """The kind of a student for the time that is left."""
    from rayvldd.coresets.selection import Coreset
    from rayvldd.evaluation.students import Pairs, PairsInOrder

    if isinstance(spec.pairs, Coreset):
        return _kind(len(spec.pairs.image_index))
    return _kind(spec.pairs.num_pairs) if isinstance(spec.pairs, Pairs | PairsInOrder) else ALL_PAIRS


def choose_coresets(
    study: Study,
    task: "RetrievalTask",
    workspace: "Workspace",
    methods: Sequence[str],
    numbers: Sequence[int],
    seeds: Sequence[int],
    display: "ProgressDisplay",
    left: "StudentsLeft",
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
        display.progress("learning rates on real pairs", done, total, display.of_phase(left.words()))

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
    left.begin()
    rates = choose_rates(
        study, workspace.cache, of_kinds, show_rates, lambda spec, seconds: left.trained(_kind_of(spec), seconds)
    )
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
    left: "StudentsLeft",
) -> dict[str, list["StudentScores"]]:
    """Train and score the students of all sets concurrently, log each set, and return the scores by the set's name."""
    from rayvldd.library.score_log import score_log
    from rayvldd.runtime.evaluation import score_in_parallel

    def show(done: int, total: int, _: float) -> None:
        display.progress(f"students scored on {split}", done, total, display.of_phase(left.words()))

    def trained(spec: "StudentSpec", seconds: float | None) -> None:
        left.trained(_kind_of(spec), seconds)

    jobs = [job for group in sets.values() for job in group]
    with score_log(study, task, workspace, split, sets, command) as log:
        left.begin()
        found = iter(score_in_parallel(study, workspace.cache, jobs, split, show, trained))
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
