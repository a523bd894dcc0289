"""``rayvldd distill``: one distillation at one point."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import SerializeAsAny

from rayvldd.cli.experts import plan_of_experts
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.made_set import say_made_set, say_ways_on, say_without_gain
from rayvldd.cli.output import Output, PlanLines
from rayvldd.cli.preparation import checked_study, dry_run, reachable, store_option, study_argument, writable_store
from rayvldd.cli.tracking import tracking_option
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.records.form import Values

if TYPE_CHECKING:
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.library.distilling import Distillation
    from rayvldd.workspace import Workspace


class _Distilled(Output):
    study: str
    distilled_set: str
    outer_step: int
    val_mean_recall: float
    start_val_mean_recall: float | None
    """Before the first outer step; null if its record was lost."""
    metrics: dict[str, float]
    rates_to_try: SerializeAsAny[Values] | None
    """If no evaluation was above the start."""


@click.command(
    "distill",
    cls=RunCommand,
    short_help="Distil once, at the first point of a study.",
    kept="the best set so far and the state of the last evaluation",
    examples=[
        "rayvldd distill search_spaces/quickstart.yaml",
        "rayvldd distill search_spaces/quickstart.yaml --set distillation.lr_image=300 --out my_set",
    ],
)
@study_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the distilled set and its pictures. Default: in the study's folder of the workspace.",
)
@tracking_option
@store_option
@click.pass_obj
def command(
    invocation: Invocation, study_file: Path, out: Path | None, tracking_uri: str | None, store_uri: str | None
) -> None:
    """Distil once, at the first point of STUDY, and save the set that is best on validation.

    The first point consists of the first of `search.initial_points` and the file's constants; `--set` changes it.
    Missing experts are trained first. The same command resumes an interrupted distillation.
    """
    study, workspace = checked_study(invocation, study_file, on_this_machine=True)
    point = study.at(study.first_point())

    store = writable_store(store_uri, workspace)
    if invocation.dry_run:
        return dry_run(invocation, point, _plan(point, workspace, store, out))

    for note in point.notes():
        invocation.say_progress(f"note: {note}")

    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.library.distilling import distill_point
    from rayvldd.reports.diagnostics import words_of_diagnostics

    with invocation.display() as display, reachable(store):
        made = distill_point(point, workspace, store, display, invocation.line, tracking_uri, out)
    best = DistilledSet.load(made.folder)
    card, place = best.origin, made.folder.absolute()
    recall = card.metrics[VAL_MEAN_RECALL]
    invocation.say(f"\n{best.describe()}\n")
    invocation.say(f"best           val mean recall {recall:.2f} at outer step {card.outer_step}")
    _say_gain(invocation, point, best, made)
    if words := words_of_diagnostics(card.metrics):
        invocation.say(f"the set        {words}")
    say_made_set(invocation, place)
    say_ways_on(invocation, place, point.name, condition="once the next command has scored it with --split test")
    invocation.say_next(shlex.join(["rayvldd", "evaluate", str(place), "--coresets", "random"]))
    invocation.finish(
        _Distilled(
            study=study.name,
            distilled_set=str(place),
            outer_step=card.outer_step,
            val_mean_recall=recall,
            start_val_mean_recall=made.start_recall,
            metrics=card.metrics,
            rates_to_try=made.rates_to_try,
        )
    )


def _say_gain(invocation: Invocation, point: Study, best: "DistilledSet", made: "Distillation") -> None:
    """Say how far the set is above the pairs that it began as, or warn that it is these pairs."""
    from rayvldd.reports.gain import sentence_of_gain, words_without_gain

    card = best.origin
    if warning := words_without_gain(card.outer_step, len(best), made.rates_to_try):
        say_without_gain(invocation, warning, made.rates_to_try)
    elif made.start_recall is not None:
        gain = sentence_of_gain(point.distillation, len(best), card.metrics[VAL_MEAN_RECALL], made.start_recall)
        invocation.say(f"in short       {gain}")


def _plan(point: Study, workspace: "Workspace", store: "ExpertStore", out: Path | None) -> PlanLines:
    settings = point.distillation
    return {
        **plan_of_experts(point, store.uri),
        "pairs": settings.num_pairs,
        "outer_steps": f"{settings.outer_steps}, evaluated on validation every {settings.evaluate_every}",
        "distilled_set": str(out or workspace.study(point.name) / "distill"),
        **({"notes": "; ".join(notes)} if (notes := point.notes()) else {}),
    }
