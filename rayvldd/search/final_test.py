"""The one look at test: the chosen set, random pairs of the same number, and the full data, each with several seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.data.array_cache import ArrayCache
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.run import mean_of, student_seeds
from rayvldd.evaluation.intervals import t_interval
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.fleet.evaluation_tasks import EvaluationJob, evaluate_in_parallel
from rayvldd.models.problem import Problem, load_problem
from rayvldd.search.display import StudyDisplay
from rayvldd.search.ledger import Trial
from rayvldd.search.study_folder import StudyFolder, read_json
from rayvldd.stores.workspace import write_json_whole

TEST = 1
"""Purpose of the students' seeds: others than those that validation chose with."""

MAX_FULL_DATA = 3
"""Most models trained on the full data: each costs as much as an expert, and they differ little."""


def look_at_test(study: Study, best: Trial, folder: StudyFolder, cache: Path, display: StudyDisplay) -> dict[str, Any]:
    """Test the chosen trial's set, or return what its test has shown before.

    Every student of the distilled set and every random set has its own seed, and each random set is another draw.
    The interval is the 95 % t-interval of the mean over the students of this one distilled set; another distillation
    would vary more.
    """
    if folder.test.is_file():
        return read_json(folder.test)
    problem = load_problem(study.at(best.point), ArrayCache(cache), on_progress=display.progress)
    distilled = DistilledSet.load(folder.best)
    seeds = student_seeds(problem, study.evaluation.num_test_students, purpose=TEST)
    full_data_seeds = seeds[:MAX_FULL_DATA]
    pairs = distilled.pairs(problem)
    jobs = [EvaluationJob(None, seed) for seed in full_data_seeds]  # the longest first
    jobs += [EvaluationJob(pairs, seed) for seed in seeds]
    jobs += [_random_job(problem, len(distilled), seed) for seed in seeds]

    def show(done: int, total: int) -> None:
        display.progress("test", done, total, f"{len(seeds)} students, {len(full_data_seeds)} on the full data")

    scores = evaluate_in_parallel(problem.study, cache, jobs, "test", show)
    display.done()
    full, rest = scores[: len(full_data_seeds)], scores[len(full_data_seeds) :]
    tested = summary(rest[: len(seeds)], rest[len(seeds) :], full)
    tested |= {"seeds": seeds, "num_pairs": len(distilled)}
    write_json_whole(folder.test, tested)
    return tested


def summary(
    distilled: Sequence[RetrievalMetrics], random: Sequence[RetrievalMetrics], full: Sequence[RetrievalMetrics]
) -> dict[str, Any]:
    """What is reported of a test: means over students in percent, and the share of the full-data bound kept."""
    recalls = [score.mean_recall for score in distilled]
    mean_recall, bound = float(np.mean(recalls)), mean_of(full).mean_recall
    return {
        **mean_of(distilled).as_dict(),
        "interval": list(t_interval(recalls)),
        "num_students": len(distilled),
        "random_mean_recall": mean_of(random).mean_recall,
        "full_data_mean_recall": bound,
        "num_full_data_models": len(full),
        "share_of_full_data": mean_recall / bound if bound > 0 else 0.0,
        "students": {
            "distilled": recalls,
            "random": [score.mean_recall for score in random],
            "full_data": [score.mean_recall for score in full],
        },
        "recalls": {name: mean_of(scores).as_dict() for name, scores in (("random", random), ("full_data", full))},
    }


def _random_job(problem: Problem, num_pairs: int, seed: int) -> EvaluationJob:
    return EvaluationJob(choose_coreset(problem, "random", num_pairs, seed), seed)
