"""What ``evaluate`` and ``coreset`` share: several sets, several students each, one split."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.fleet.evaluation_tasks import EvaluationJob
    from rayvldd.models.problem import Problem
    from rayvldd.search.display import StudyDisplay
    from rayvldd.stores.workspace import Workspace

students_option = click.option(
    "--students", type=click.IntRange(min=1), metavar="N", help="Students a set. Default: evaluation.num_test_students."
)

split_option: Callable[[Any], Any] = click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="test",
    show_default=True,
    help="What students are scored on. Choose on val; look at test for what was chosen.",
)


def seeds_of_students(problem: "Problem", split: str, count: int | None) -> list[int]:
    """Seeds of the students; on test they are those of a sweep's own test, which this repeats."""
    from rayvldd.distillation.run import student_seeds
    from rayvldd.search.final_test import TEST

    wanted = count or problem.study.evaluation.num_test_students
    return student_seeds(problem, wanted, purpose=TEST if split == "test" else 0)


def score_sets(
    problem: "Problem",
    workspace: "Workspace",
    sets: Mapping[str, Sequence["EvaluationJob"]],
    split: Any,
    display: "StudyDisplay",
) -> dict[str, list["RetrievalMetrics"]]:
    """Train and score all students of all sets side by side; recalls by the set's name."""
    from rayvldd.fleet.evaluation_tasks import evaluate_in_parallel

    def show(done: int, total: int) -> None:
        display.progress(f"students scored on {split}", done, total)

    jobs = [job for group in sets.values() for job in group]
    scores = iter(evaluate_in_parallel(problem.study, workspace.cache, jobs, split, show))
    display.done()
    return {name: [next(scores) for _ in group] for name, group in sets.items()}


def summary_of_students(scores: Sequence["RetrievalMetrics"]) -> dict[str, Any]:
    """Mean and standard deviation of each recall over students, in percent; no deviation of a single one."""
    from statistics import fmean, stdev

    rows = [score.as_dict() for score in scores]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "num_students": len(rows),
        "mean": {name: fmean(values) for name, values in columns.items()},
        "std": {name: stdev(values) if len(values) > 1 else None for name, values in columns.items()},
    }
