"""``rayvldd coreset``: evaluation of coresets, the baselines of distilled sets."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import SerializeAsAny

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import PlanLines
from rayvldd.cli.preparation import checked_study, dry_run, study_argument
from rayvldd.cli.scoring import (
    read_methods,
    read_numbers,
    scoring_options,
    show_published,
    show_split,
    show_training,
    together_with,
)
from rayvldd.config.study import Study
from rayvldd.library.evaluating import keep_coresets
from rayvldd.library.scoring import (
    Chosen,
    Split,
    choose_coresets,
    choose_recipe_in,
    full_data_jobs,
    score_sets,
    seeds_of_students,
    students_left,
    words_of_bound,
    words_of_rates,
)
from rayvldd.records.form import Values
from rayvldd.records.set_scores import ALL_PAIRS, CoresetScores

if TYPE_CHECKING:
    from rayvldd.console import ProgressDisplay
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.records.full_data import ChosenRecipe
    from rayvldd.workspace import Workspace


class _Output(CoresetScores):
    """The scores of the workspace, with ``--reference`` followed by the published tables."""

    published: list[SerializeAsAny[Values]] | None = None


@click.command(
    "coreset",
    cls=RunCommand,
    short_help="Train new students on real pairs, and score them.",
    kept="the caches and the sets of --out; students are trained again",
    examples=[
        "rayvldd coreset search_spaces/quickstart.yaml",
        "rayvldd coreset search_spaces/quickstart.yaml --method all --pairs 100,200,500 --out coresets",
        "rayvldd coreset search_spaces/quickstart.yaml --method random,herding --pairs 50,100 --students 3",
    ],
)
@study_argument
@click.option(
    "--method",
    "method_list",
    default="all",
    show_default=True,
    metavar="NAMES",
    help="Comma-separated methods; or `all`.",
)
@click.option("--pairs", "pairs_list", metavar="NUMBERS", help="Numbers of pairs. Default: distillation.num_pairs.")
@scoring_options
@click.option(
    "--out",
    "out_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write the first student's pairs there as distilled sets, one folder per method and number of pairs.",
)
@click.pass_obj
def command(
    invocation: Invocation,
    study_file: Path,
    method_list: str,
    pairs_list: str | None,
    students: int | None,
    split: Split,
    full_data: bool,
    reference: bool,
    out_folder: Path | None,
) -> None:
    """Train new students on real pairs of STUDY, selected by each method, and print their recalls.

    The baselines of distillation: `random`, `herding`, `k_center`, `k_means`, `prototypes` (images with mean texts of
    clusters), `forgetting` (the least forgotten pairs of an expert's training) and `forgetting_most`. Every student has
    its own seed and coreset, at the first point of STUDY.
    """
    with invocation.waiting("loading PyTorch"):
        methods, faults = read_methods(method_list, "--method")
    numbers, more = read_numbers(pairs_list)
    with together_with([*faults, *more], "rayvldd coreset --help"):
        study, workspace = checked_study(invocation, study_file, num_pairs=max(numbers, default=None))
    point = study.at(study.first_point())
    numbers = numbers or [point.distillation.num_pairs]
    if invocation.dry_run:
        count = students or point.evaluation.num_test_students
        plan: PlanLines = {
            "methods": ", ".join(methods),
            "pairs": ", ".join(map(str, numbers)),
            "students": f"{count} for each method and number of pairs",
            "learning_rates": words_of_rates(point),
            "models_of_all_pairs": words_of_bound(point, count) if full_data else "none",
            "split": split,
        }
        return dry_run(invocation, point, plan)

    with invocation.waiting("loading Ray"):
        import rayvldd.runtime.cluster  # noqa: F401  # here, because it takes seconds
        from rayvldd.reports.tables import recalls_table
        from rayvldd.storage.new_folders import writable_folder

    with invocation.display() as display, writable_folder(out_folder, "--out") if out_folder else nullcontext():
        work = _Work(methods, numbers, students, split, full_data, out_folder)
        chosen, scores, recipe = _choose_and_score(point, workspace, work, display, invocation.line)
    invocation.show(recalls_table(scores, f"Recall on {split} (%)", full_data=ALL_PAIRS))
    show_training(invocation, {coreset.name: coreset.rate for coreset in chosen}, recipe)
    show_split(invocation, split)
    kept = keep_coresets(point, split, chosen, scores, recipe, workspace)
    output = _Output(**dict(kept))
    if reference:
        output = output.model_copy(update={"published": show_published(invocation)})
    invocation.finish(output)


@dataclass(frozen=True)
class _Work:
    """The parsed options."""

    methods: list[str]
    numbers: list[int]
    students: int | None
    split: Split
    full_data: bool
    out_folder: Path | None


def _choose_and_score(
    point: Study, workspace: "Workspace", work: _Work, display: "ProgressDisplay", command: str
) -> tuple[list[Chosen], dict[str, list["RetrievalMetrics"]], "ChosenRecipe | None"]:
    """Return coresets, recalls by row of the table, and the recipe of the last row, which is the full data."""
    from rayvldd.data.prepared_arrays import open_cache
    from rayvldd.models.retrieval_task import load_task
    from rayvldd.runtime.actor_pool import keeping_actors
    from rayvldd.runtime.cluster import start_ray

    with start_ray(None, None, display), keeping_actors():
        task = load_task(point.data, point.model, open_cache(workspace.cache), on_progress=display.progress)
        seeds = seeds_of_students(point, work.split, work.students)
        sizes = [number for number in work.numbers for _ in work.methods]
        left = students_left(point, task, workspace, len(seeds), coresets=sizes, full_data=work.full_data)
        chosen = choose_coresets(point, task, workspace, work.methods, work.numbers, seeds, display, left)
        if work.out_folder:
            _save(point, task, chosen, seeds[0], work.out_folder, workspace, display)
        choice = choose_recipe_in(point, task, workspace, display, left) if work.full_data else None
        jobs = {ALL_PAIRS: full_data_jobs(choice, seeds)} if choice else {}  # the longest first
        jobs |= {coreset.name: coreset.jobs(seeds) for coreset in chosen}
        scores = score_sets(point, task, workspace, jobs, work.split, display, command, left)
    rows = dict.fromkeys([coreset.name for coreset in chosen] + list(jobs))
    recalls = {name: [found.ranks.recalls() for found in scores[name]] for name in rows}
    return chosen, recalls, choice.best if choice else None


def _save(
    point: Study,
    task: "RetrievalTask",
    chosen: Sequence[Chosen],
    seed: int,
    folder: Path,
    workspace: "Workspace",
    display: "ProgressDisplay",
) -> None:
    from rayvldd.distillation.coreset_set import coreset_as_set
    from rayvldd.records.made_sets import note_made_set

    for coreset in chosen:
        place = folder / f"{coreset.method}_{coreset.num_pairs}"
        coreset_as_set(point, task, coreset.coresets[0], coreset.method, seed, coreset.rate).save(place)
        note_made_set(workspace.root, place)
    display.line(f"{len(chosen)} sets written to {folder}")
