"""The single test evaluation: the chosen sets, random pairs and the full data, each with several seeds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from rayvldd.config.metrics import FULL_DATA_MEAN_RECALL, RANDOM_MEAN_RECALL
from rayvldd.config.settings import MAX_MODELS, STUDENTS_FOR_RATE
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.coresets.selection import choose_coreset
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.evaluation.full_data import recipes_of
from rayvldd.evaluation.intervals import nested_interval
from rayvldd.evaluation.paired_difference import paired_difference
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.students import mean_of
from rayvldd.hyperparameter_search.parts_left import PartsLeft
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.randomness import StudentPurpose, student_seeds
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.difference import Difference
from rayvldd.records.full_data import FullDataChoice
from rayvldd.records.study_choice import StudyTest
from rayvldd.records.study_outcome import ScoresOnTest, SetOnTest
from rayvldd.records.trial import Trial
from rayvldd.runtime.actor_pool import keeping_actors
from rayvldd.runtime.evaluation import StudentSpec, choose_rates, score_in_parallel
from rayvldd.runtime.full_data import choose_recipe, has_chosen_recipe

_RECIPES, _RATES, _STUDENTS = "recipes of all pairs", "rates on random pairs", "students"
"""Parts of a test, in order."""


def evaluate_on_test(
    study: Study,
    best: Trial,
    folder: StudyFolder,
    cache: Path,
    display: ProgressDisplay,
    command: str,
    expected_s: float = 0.0,
) -> StudyTest:
    """Evaluate the sets of the chosen point on the test split, or return the result of an earlier evaluation.

    Every student of a distilled set and every random set has its own seed, and each random set is another sample. With
    several sets, the 95 % t-interval is over the means of the sets and describes the distillation at this point. If
    only the trial's own set is tested, it is over its students, and another distillation would vary more.

    The first student of the best set is kept beside it.

    Args:
        study: The study.
        best: The chosen trial.
        folder: The study's folder.
        cache: Folder of decoded images and embeddings.
        display: Shows the progress, and the time that is left.
        command: The user's command line.
        expected_s: Expected seconds, as far as the search shows them; 0: unknown.
    """
    if folder.test.is_file():
        return StudyTest.read(folder.test)
    with keeping_actors():
        tested = _test(study, best, folder, cache, display, expected_s)
    folder.add_test_evaluation(command, len(tested.scores.sets), len(tested.seeds))
    tested.write(folder.test)
    return tested


def _test(
    study: Study, best: Trial, folder: StudyFolder, cache: Path, display: ProgressDisplay, expected_s: float
) -> StudyTest:
    """Score the sets of the chosen point, random pairs and models of all pairs on the test split."""
    point = study.at(best.point)
    task = load_task(point.data, point.model, open_cache(cache), on_progress=display.progress)
    sets = [DistilledSet.load(place) for place in folder.chosen_sets()]
    count = study.evaluation.num_test_students
    seeds = student_seeds(study.seed, len(sets) * count, StudentPurpose.TEST)  # the first ones are those of `evaluate`
    left = PartsLeft(_works(point, task, cache, len(sets), len(sets[0])), expected_s)
    choice = choose_recipe(point, cache, task.fingerprints, display, partial(left.words, _RECIPES))
    full_data_seeds = seeds[:count][:MAX_MODELS]
    of_model = _students_of_model(point, task, len(sets[0])) * choice.best.recipe.epochs
    jobs = [StudentSpec(choice, seed, work=of_model) for seed in full_data_seeds]  # the longest first
    random_jobs, rate = _on_random_pairs(
        point, task, cache, len(sets[0]), seeds[:count], display, partial(left.words, _RATES)
    )
    jobs += random_jobs
    for number, distilled in enumerate(sets):
        pairs = distilled.pairs(task)
        jobs += [StudentSpec(pairs, seed) for seed in seeds[number * count : (number + 1) * count]]
    first = len(jobs) - len(seeds)
    jobs[first] = replace(jobs[first], kept_in=folder.student)

    def show(done: int, total: int, share: float) -> None:
        words = [f"{len(seeds)} students, {len(full_data_seeds)} on the full data", left.words(_STUDENTS, share)]
        display.progress("test", done, total, ", ".join(filter(None, words)))

    scores = score_in_parallel(point, cache, jobs, "test", show)
    display.done()
    found = (one.ranks for one in scores)
    full, random = list(islice(found, len(full_data_seeds))), list(islice(found, count))
    ranks = [list(islice(found, count)) for _ in sets]
    difference = paired_difference(ranks, [[student] for student in random], task.test.split.caption_image)
    measured = summary(
        [[student.recalls() for student in of_set] for of_set in ranks],
        [student.recalls() for student in random],
        [model.recalls() for model in full],
        choice,
        rate,
        difference,
    )
    num_train = task.train.num_images
    return StudyTest(num_pairs=len(sets[0]), num_train_images=num_train, seeds=list(seeds), scores=measured)


def _works(point: Study, task: RetrievalTask, cache: Path, num_sets: int, num_pairs: int) -> dict[str, float]:
    """The work of the parts of a test, in students on a distilled set."""
    settings, count = point.evaluation, point.evaluation.num_test_students
    of_epoch, rates = _students_of_model(point, task, num_pairs), len(settings.recipes_on_coresets)
    recipes = recipes_of(settings)
    is_chosen = has_chosen_recipe(point, cache, task.fingerprints)
    longest = max(recipe.epochs for recipe in recipes)  # which is the best is not known yet
    return {
        _RECIPES: 0.0 if is_chosen else of_epoch * sum(recipe.epochs for recipe in recipes),
        _RATES: float(rates * min(STUDENTS_FOR_RATE, count) if rates > 1 else 0),
        _STUDENTS: (num_sets + 1) * count + of_epoch * longest * min(count, MAX_MODELS),
    }


def _students_of_model(point: Study, task: RetrievalTask, num_pairs: int) -> float:
    """Work of an epoch on all pairs, in students on a distilled set, if a pair takes the same time in both."""
    is_one = point.evaluation.full_data.captions_per_image == "one"
    pairs = task.train.num_images if is_one else len(task.train.caption_embeddings)
    return pairs / (num_pairs * point.evaluation.epochs)


def summary(
    distilled: Sequence[Sequence[RetrievalMetrics]],
    random: Sequence[RetrievalMetrics],
    full: Sequence[RetrievalMetrics],
    choice: FullDataChoice,
    rate: ChosenRate | None = None,
    over_random: Difference | None = None,
) -> ScoresOnTest:
    """Summarise a test evaluation: means in percent, and the fraction of the full-data bound.

    Args:
        distilled: Students of each distilled set, the same number for each.
        random: One student for each sample of random pairs.
        full: Models trained on the full data.
        choice: Their recipe.
        rate: Learning rate of students on random pairs, if it was chosen.
        over_random: Distilled minus random pairs on the same images.
    """
    recalls = [[score.mean_recall for score in students] for students in distilled]
    students = [score for of_set in distilled for score in of_set]
    mean_recall, bound = float(np.mean(recalls)), mean_of(full).mean_recall
    values = {
        **mean_of(students).as_dict(),
        "interval": nested_interval(recalls),
        "interval_over": "sets" if len(recalls) > 1 else "students",
        "num_sets": len(recalls),
        "num_students": len(recalls[0]),
        RANDOM_MEAN_RECALL: mean_of(random).mean_recall,
        FULL_DATA_MEAN_RECALL: bound,
        "num_full_data_models": len(full),
        "full_data_recipe": choice.best,
        "share_of_full_data": mean_recall / bound if bound > 0 else 0.0,
        "sets": [SetOnTest(mean_recall=float(np.mean(of_set)), students=of_set) for of_set in recalls],
        "students": {
            "distilled": [recall for of_set in recalls for recall in of_set],
            "random": [score.mean_recall for score in random],
            "full_data": [score.mean_recall for score in full],
        },
        "recalls": {name: mean_of(scores).as_dict() for name, scores in (("random", random), ("full_data", full))},
    }
    known = {"random_rate": rate, "over_random": over_random}
    return ScoresOnTest.model_validate(values | {name: value for name, value in known.items() if value})


def _on_random_pairs(
    point: Study,
    task: RetrievalTask,
    cache: Path,
    num_pairs: int,
    seeds: Sequence[int],
    display: ProgressDisplay,
    words_left: Callable[[float], str],
) -> tuple[list[StudentSpec], ChosenRate]:
    """One student on its own random pairs for each seed, and their rate and weight decay, chosen on validation."""

    def show(done: int, total: int, share: float) -> None:
        display.progress("learning rates on random pairs", done, total, words_left(share))

    coresets = [choose_coreset(task, "random", num_pairs, seed) for seed in seeds]
    rate = choose_rates(point, cache, [coresets], show)[0]
    jobs = [
        StudentSpec(coreset, seed, rate.learning_rate, rate.weight_decay)
        for coreset, seed in zip(coresets, seeds, strict=True)
    ]
    return jobs, rate
