"""``rayvldd scaling``: recall against the number of pairs, of distilled sets, coresets and all pairs."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayvldd.cli.experts import plan_of_experts
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import PlanLines
from rayvldd.cli.preparation import checked_study, dry_run, reachable, store_option, study_argument, writable_store
from rayvldd.cli.scoring import read_methods, read_numbers, show_split, show_training, together_with
from rayvldd.cli.tracking import tracking_option
from rayvldd.config.study import Study
from rayvldd.library.evaluating import EvaluationOptions, evaluate_group, keep_evaluation
from rayvldd.library.scaling import at_pairs, by_pairs
from rayvldd.library.scoring import Split
from rayvldd.library.set_groups import GroupScores, SetGroup, group_sets, load_sets
from rayvldd.records.set_scores import SetScores

if TYPE_CHECKING:
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.records.gain import RatesToTry
    from rayvldd.workspace import Workspace


class _Output(SetScores):
    """The scores of the workspace and their file."""

    scores: Path
    warnings: dict[str, str]
    """By set, that it is its starting pairs, with advice; other sets are left out."""


_NUMBERS = "10,20,50,100,200,500,1000"


@click.command(
    "scaling",
    cls=RunCommand,
    short_help="Distil several numbers of pairs, and compare their recalls.",
    kept="finished sets, the state of the last evaluation and the caches",
    examples=[
        "rayvldd scaling search_spaces/quickstart.yaml --pairs 10,20,50",
        "rayvldd scaling my_study.yaml --coresets random,k_means --students 5 --split test",
    ],
)
@study_argument
@click.option("--pairs", "pairs_list", default=_NUMBERS, show_default=True, metavar="NUMBERS", help="Numbers of pairs.")
@click.option(
    "--coresets", default="random", show_default=True, metavar="NAMES", help="Methods of coresets beside; or `all`."
)
@click.option("--students", type=click.IntRange(min=1), metavar="N", help="Default: evaluation.num_test_students.")
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True, help="For scoring.")
@click.option("--full-data/--no-full-data", default=True, show_default=True, help="Also train models on all pairs.")
@tracking_option
@store_option
@click.pass_obj
def command(
    invocation: Invocation,
    study_file: Path,
    pairs_list: str,
    coresets: str,
    students: int | None,
    split: Split,
    full_data: bool,
    tracking_uri: str | None,
    store_uri: str | None,
) -> None:
    """Distil STUDY at its first point with each number of pairs, and score students on all the sets.

    Each set has the settings of the first point, which are not tuned for each number: a sweep of one number can find
    a better set. Experts are shared. The same command resumes, and finished sets are not distilled again. The scores
    are kept for `rayvldd compare`, which draws recall against the number of pairs from those on test.
    """
    with invocation.waiting("loading PyTorch"):
        methods, faults = read_methods(coresets, "--coresets")
    numbers, more = read_numbers(pairs_list)
    with together_with([*faults, *more], "rayvldd scaling --help"):
        study, workspace = checked_study(invocation, study_file, num_pairs=max(numbers, default=None), distils=True)
    points = at_pairs(study.at(study.first_point()), numbers)
    store = writable_store(store_uri, workspace)
    if invocation.dry_run:
        count = students or study.evaluation.num_test_students
        plan: PlanLines = {
            **plan_of_experts(points[numbers[0]], store.uri),
            "sets": ", ".join(f"{number} pairs" for number in points),
            "outer_steps": f"{study.distillation.outer_steps} for each set",
            "coresets": ", ".join(methods),
            "students": f"{count} for each training set, scored on {split}",
        }
        return dry_run(invocation, points[numbers[0]], plan)
    rates = _distilled(invocation, points, workspace, store, tracking_uri)
    options = EvaluationOptions(students, split, full_data, methods)
    group, scores = _scored(invocation, list(rates), workspace, options, _num_phases(points))

    from rayvldd.reports.tables import scaling_table

    kept = keep_evaluation({group: scores}, EvaluationOptions(students, split), workspace, invocation.line)
    sizes = {name: len(distilled) for name, distilled in group.sets.items()}
    rows = by_pairs(kept.scores.sets, kept.scores.coresets)
    invocation.show(scaling_table(rows, kept.scores.full_data, f"Mean recall on {split} (%) by number of pairs"))
    show_training(invocation, {name: one.rate for name, one in scores.coresets.items()}, scores.recipe)
    show_split(invocation, split)
    warnings = _warnings(group, rates)
    for name, size in sizes.items():
        invocation.say(f"{size} pairs: {name}")
        if name in warnings:
            invocation.say(f"  WARNING: {warnings[name]}.")
    if split == "test":
        invocation.say_next(invocation.in_this_workspace(shlex.join(["rayvldd", "compare"])))
    invocation.finish(_Output(**dict(kept.scores), scores=kept.file, warnings=warnings))


def _warnings(group: SetGroup, rates: "dict[str, RatesToTry | None]") -> dict[str, str]:
    """Warnings of the sets that are their starting pairs, by name."""
    from rayvldd.reports.gain import words_without_gain

    found = {
        name: words_without_gain(distilled.origin.outer_step, len(distilled), rates[name])
        for name, distilled in group.sets.items()
    }
    return {name: words for name, words in found.items() if words}


def _distilled(
    invocation: Invocation,
    points: dict[int, Study],
    workspace: "Workspace",
    store: "ExpertStore",
    tracking_uri: str | None,
) -> "dict[str, RatesToTry | None]":
    """Distil at each point; return the rates to try, if it gained nothing, by folder of the set."""
    with invocation.waiting("loading Ray"):
        import rayvldd.runtime.cluster  # noqa: F401  # here, because it takes seconds
        from rayvldd.library.distilling import distill_point, phases_of

    rates = {}
    with invocation.display() as display, reachable(store):
        done = 0
        for number, point in points.items():
            display.line(f"{number} pairs")
            made = distill_point(
                point,
                workspace,
                store,
                display,
                invocation.line,
                tracking_uri,
                phases_before=done,
                num_phases=_num_phases(points),
            )
            rates[str(made.folder)] = made.rates_to_try
            done += phases_of(point)
    return rates


def _num_phases(points: dict[int, Study]) -> int:
    """Phases of the command: those of all distillations, and the scores of the sets."""
    from rayvldd.library.distilling import phases_of

    return sum(map(phases_of, points.values())) + 1


def _scored(
    invocation: Invocation,
    folders: Sequence[str],
    workspace: "Workspace",
    options: EvaluationOptions,
    last_phase: int,
) -> tuple[SetGroup, GroupScores]:
    """Train and score students of all sets; they are one group, as they differ in the distillation alone."""
    from rayvldd.runtime.actor_pool import keeping_actors
    from rayvldd.runtime.cluster import start_ray

    (group,) = group_sets(load_sets(folders, workspace.root), {}, next_command=invocation.line)
    with invocation.display() as display, start_ray(None, None, display), keeping_actors():
        display.begin_phase(last_phase, last_phase)
        _, scores = evaluate_group(group, workspace, options, display, invocation.line)
    return group, scores
