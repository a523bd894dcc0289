"""``rayvldd distill``: one distillation at one point."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayvldd.cli.experts import plan_of_experts
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.preparation import checked_study, dry_run, reachable, store_option, study_argument
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError

if TYPE_CHECKING:
    from rayvldd.console import ProgressDisplay
    from rayvldd.experts.store.expert_store import ExpertStore
    from rayvldd.experts.trajectory import Trajectory
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.workspace import Workspace


@click.command(
    "distill",
    cls=RunCommand,
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
@store_option
@click.pass_obj
def command(invocation: Invocation, study_file: Path, out: Path | None, store_uri: str | None) -> None:
    """Distil once, at the first point of STUDY, and keep the set that is best on validation.

    The first point is the first of `search.initial_points`, over the file's constants; `--set` moves it. Experts that
    are missing are trained first. The same command continues a distillation that was interrupted.
    """
    study, workspace = checked_study(invocation, study_file)
    point = study.at(study.first_point())

    from rayvldd.experts.store.addresses import open_store

    store = open_store(store_uri, workspace)
    if invocation.dry_run:
        return dry_run(invocation, point, _plan(point, workspace, store, out))

    from rayvldd.console import ProgressDisplay

    with ProgressDisplay() as display, reachable(store):
        task, trajectories, key = _prepare(point, workspace, store, display)
        folder = workspace.study(study.name) / "distill" / key
        with _held(folder):
            _distil(point, task, trajectories, folder, display)
            summary = _hand_over(task, folder, out or folder / "distilled_set")
    invocation.say(f"\n{summary.pop('description')}\n")
    invocation.say(f"best val mean recall {summary[VAL_MEAN_RECALL]:.2f} at outer step {summary['outer_step']}")
    invocation.say(f"distilled set: {summary['distilled_set']}")
    invocation.say(f"next: rayvldd evaluate {summary['distilled_set']}")
    invocation.finish({"study": study.name, **summary})


def _plan(point: Study, workspace: "Workspace", store: "ExpertStore", out: Path | None) -> dict[str, Any]:
    settings = point.distillation
    return {
        **plan_of_experts(point, store.uri),
        "pairs": settings.num_pairs,
        "outer_steps": f"{settings.outer_steps}, evaluated on validation every {settings.evaluate_every}",
        "distilled_set": str(out or workspace.study(point.name) / "distill"),
    }


def _prepare(
    point: Study, workspace: "Workspace", store: "ExpertStore", display: "ProgressDisplay"
) -> tuple["RetrievalTask", list["Trajectory"], str]:
    """Load the task, make the experts that are missing, and name the run by all that decides it."""
    from rayvldd.config.setting import selected
    from rayvldd.data.array_cache import fingerprint
    from rayvldd.data.prepared_arrays import open_cache
    from rayvldd.models.retrieval_task import load_task
    from rayvldd.search.preparation import load_expert_sets, make_missing_experts, sets_asked_for

    sets = load_expert_sets(point, workspace.cache, display)
    make_missing_experts(sets_asked_for(point, sets), store, workspace.cache, display)
    recipe = next(iter(sets)).recipe
    task = load_task(point.data, point.model, open_cache(workspace.cache), on_progress=display.progress)
    indexes = range(point.experts.num_experts if point.requires_experts else 0)
    trajectories = [store.load(recipe, index) for index in indexes]
    settings = selected(point, lambda info: info.in_point)
    return (
        task,
        trajectories,
        fingerprint({"settings": settings, "experts": recipe.key if point.requires_experts else ""}),
    )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a distillation's folder against other processes."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RayvlddError(
            f"{folder}: another process is distilling with these settings", next_command="wait for it to end"
        ) from None


def _distil(
    point: Study,
    task: "RetrievalTask",
    trajectories: Sequence["Trajectory"],
    folder: Path,
    display: "ProgressDisplay",
) -> None:
    """Run to the last outer step, or continue to it, with the state kept in ``folder``."""
    import torch

    from rayvldd.distillation.loop import StepReport, distill

    torch.set_num_threads(point.resources.cpus_per_trial)
    total, last = point.distillation.outer_steps, [""]

    def on_step(report: StepReport) -> None:
        last[0] = report.loss_name
        note = f"{report.loss_name.replace('_', ' ')} {report.loss:.3f}"
        display.progress("outer steps", report.outer_step, total, note)

    for evaluation in distill(point, task, trajectories, point.seed, folder / "checkpoint", on_step):
        metrics, name = evaluation.metrics, last[0]
        loss = f"  {name.replace('_', ' ')} {metrics[name]:.3f}" if name in metrics else ""
        mark = "  best so far" if evaluation.is_best else ""
        display.line(
            f"outer step {evaluation.outer_step:5d}  val mean recall {metrics[VAL_MEAN_RECALL]:5.2f}{loss}{mark}"
        )
    display.done()


def _hand_over(task: "RetrievalTask", folder: Path, out: Path) -> dict[str, Any]:
    """Copy the best set to where it was asked for, and draw it."""
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.distillation.evaluations import BEST
    from rayvldd.reports.illustrator import Pictures

    shutil.copytree(folder / "checkpoint" / BEST, out, dirs_exist_ok=True)
    Pictures().draw_set(out, task.train)
    best = DistilledSet.load(out)
    return {
        "distilled_set": str(out.absolute()),
        "outer_step": best.card["outer_step"],
        VAL_MEAN_RECALL: best.card["metrics"][VAL_MEAN_RECALL],
        "metrics": best.card["metrics"],
        "description": best.describe(),
    }
