"""``rayvldd coreset``: what real pairs of the same number are worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.preparation import checked_study, dry_run, study_argument
from rayvldd.cli.scoring import score_sets, seeds_of_students, split_option, students_option, summary_of_students
from rayvldd.errors import ConfigError, Fault, did_you_mean

if TYPE_CHECKING:
    from rayvldd.fleet.evaluation_tasks import EvaluationJob
    from rayvldd.models.problem import Problem


@click.command(
    "coreset",
    cls=RunCommand,
    kept="the caches; students are trained again",
    examples=[
        "rayvldd coreset search_spaces/quickstart.yaml",
        "rayvldd coreset search_spaces/quickstart.yaml --method random,herding --pairs 50,100 --students 3 --split val",
    ],
)
@study_argument
@click.option(
    "--method", "method_list", default="all", show_default=True, metavar="NAMES", help="Methods, with commas; or `all`."
)
@click.option("--pairs", "pairs_list", metavar="NUMBERS", help="Numbers of pairs. Default: distillation.num_pairs.")
@students_option
@split_option
@click.pass_obj
def command(
    invocation: Invocation,
    study_file: Path,
    method_list: str,
    pairs_list: str | None,
    students: int | None,
    split: str,
) -> None:
    """Train fresh students on real pairs of STUDY, chosen by each method, and print their recalls.

    The baselines of distillation: `random`, `herding`, `k_center` and `k_means`. Every student has a seed and a
    choice of its own, at the first point of STUDY.
    """
    methods, numbers = _methods_and_numbers(method_list, pairs_list)
    study, workspace = checked_study(invocation, study_file, num_pairs=max(numbers, default=None))
    point = study.at(study.first_point())
    numbers = numbers or [point.distillation.num_pairs]
    if invocation.dry_run:
        plan = {
            "methods": ", ".join(methods),
            "pairs": ", ".join(map(str, numbers)),
            "students": students or point.evaluation.num_test_students,
            "split": split,
        }
        return dry_run(invocation, point, plan)

    from rayvldd.data.array_cache import ArrayCache
    from rayvldd.models.problem import load_problem
    from rayvldd.reports.tables import recalls_table
    from rayvldd.search.display import StudyDisplay

    with StudyDisplay() as display:
        problem = load_problem(point, ArrayCache(workspace.cache), on_progress=display.progress)
        seeds = seeds_of_students(problem, split, students)
        chosen = {(method, number): _jobs(problem, method, number, seeds) for method in methods for number in numbers}
        by_name = {f"{number} pairs, {method}": jobs for (method, number), jobs in chosen.items()}
        scores = score_sets(problem, workspace, by_name, split, display)
    invocation.show(recalls_table(scores, f"Recall on {split} (%), TR: image to text, IR: text to image"))
    results = [
        {"method": method, "num_pairs": number, **summary_of_students(found)}
        for (method, number), found in zip(chosen, scores.values(), strict=True)
    ]
    invocation.finish({"study": study.name, "split": split, "coresets": results})


def _jobs(problem: "Problem", method: str, num_pairs: int, seeds: Sequence[int]) -> list["EvaluationJob"]:
    from rayvldd.coresets.selection import choose_coreset
    from rayvldd.fleet.evaluation_tasks import EvaluationJob

    return [EvaluationJob(choose_coreset(problem, method, num_pairs, seed).pairs(problem), seed) for seed in seeds]


def _methods_and_numbers(method_list: str, pairs_list: str | None) -> tuple[list[str], list[int]]:
    """Read both lists; no number at all leaves it to the study.

    Raises:
        ConfigError: listing every word that is no method or no number of pairs.
    """
    from rayvldd.coresets.selection import METHODS

    methods = list(METHODS) if method_list == "all" else _words(method_list)
    numbers = _words(pairs_list or "")
    faults = [
        Fault("--method", f"no coreset method {name!r}{did_you_mean(name, METHODS)}", f"{', '.join(METHODS)}, all")
        for name in methods
        if name not in METHODS
    ]
    faults += [
        Fault("--pairs", f"got {word!r}", "whole numbers of at least 2, with commas: 100,200")
        for word in numbers
        if not word.isdecimal() or int(word) < 2
    ]
    if faults:
        raise ConfigError(faults, next_command="rayvldd coreset --help")
    return methods, [int(word) for word in numbers]


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
