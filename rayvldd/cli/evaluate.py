"""``rayvldd evaluate``: fresh students on distilled sets."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.preparation import check_models_and_data, show_plan, show_settings, writable_workspace
from rayvldd.cli.scoring import score_sets, seeds_of_students, split_option, students_option, summary_of_students
from rayvldd.config.loading import dump_study, load_study
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault

if TYPE_CHECKING:
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.models.problem import Problem
    from rayvldd.search.display import StudyDisplay
    from rayvldd.stores.workspace import Workspace


@click.command(
    "evaluate",
    cls=RunCommand,
    kept="the caches; students are trained again",
    examples=[
        "rayvldd evaluate rayvldd_workspace/studies/quickstart/best",
        "rayvldd evaluate my_set other_set --students 3 --split val",
        "rayvldd evaluate my_set --set data.root=/data/flickr8k --json",
    ],
)
@click.argument("set_folders", metavar="SET...", nargs=-1, required=True, type=click.Path(path_type=Path))
@students_option
@split_option
@click.pass_obj
def command(invocation: Invocation, set_folders: tuple[Path, ...], students: int | None, split: str) -> None:
    """Train fresh students on each distilled SET and print their recalls.

    A SET is a folder with a card, which gives the settings it was made with. Where data or weights lie elsewhere on
    this machine, `--set data.root=...` and the like say so.
    """
    from rayvldd.distillation.distilled_set import DistilledSet

    workspace = writable_workspace(invocation)
    sets = {str(folder): DistilledSet.load(folder) for folder in set_folders}
    studies = {name: study_of_card(name, distilled.card, invocation) for name, distilled in sets.items()}
    for name, study in studies.items():
        check_models_and_data(study, f"{name}/card.json", invocation.line)
    if invocation.dry_run:
        return _dry_run(invocation, studies, students, split)

    from rayvldd.fleet.runtime import start_ray
    from rayvldd.reports.tables import recalls_table
    from rayvldd.search.display import StudyDisplay

    scores: dict[str, list[RetrievalMetrics]] = {}
    with StudyDisplay() as display, start_ray(None, None):
        for name, distilled in sets.items():
            display.line(f"{name}\n{distilled.describe()}")
            scores |= _scores_of(name, distilled, studies[name], workspace, students, split, display)
    invocation.show(recalls_table(scores, f"Recall on {split} (%), TR: image to text, IR: text to image"))
    results = [{"distilled_set": name, **summary_of_students(found)} for name, found in scores.items()]
    invocation.finish({"split": split, "sets": results})


def study_of_card(folder: str, card: dict[str, Any], invocation: Invocation) -> Study:
    """The settings that a set was made with, after ``--set``.

    Raises:
        ConfigError: naming the card where the settings do not fit.
    """
    card_file = f"{folder}/card.json"
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "study.yaml")
        file.write_text(dump_study(Study.model_validate(card["study"])), encoding="utf-8")
        try:
            return load_study(file, invocation.overrides)
        except ConfigError as error:
            faults = [Fault(f.where.replace(str(file), card_file), f.problem, f.allowed) for f in error.faults]
            raise ConfigError(faults, next_command="rayvldd evaluate --help") from None


def _scores_of(
    name: str,
    distilled: "DistilledSet",
    study: Study,
    workspace: "Workspace",
    students: int | None,
    split: str,
    display: "StudyDisplay",
) -> dict[str, list["RetrievalMetrics"]]:
    from rayvldd.data.array_cache import ArrayCache
    from rayvldd.fleet.evaluation_tasks import EvaluationJob
    from rayvldd.models.problem import load_problem

    problem = load_problem(study, ArrayCache(workspace.cache), on_progress=display.progress)
    for difference in _differences(distilled, problem):
        display.line(f"note: {difference}")
    pairs = distilled.pairs(problem)
    jobs = [EvaluationJob(pairs, seed) for seed in seeds_of_students(problem, split, students)]
    return score_sets(problem, workspace, {name: jobs}, split, display)


def _differences(distilled: "DistilledSet", problem: "Problem") -> list[str]:
    """What of data and encoders is not what the set was made with; the text encoder's must be, or it fails."""
    made, now = distilled.card["fingerprints"], problem.fingerprints
    named = {"data": "the data", "image_encoder": "the image encoder's weights"}
    return [
        f"{what} (fingerprint {now[key]}) differ from those the set was made with ({made[key]})"
        for key, what in named.items()
        if made[key] != now[key]
    ]


def _dry_run(invocation: Invocation, studies: dict[str, Study], students: int | None, split: str) -> None:
    plan = {}
    for name, study in studies.items():
        show_settings(invocation, study)
        plan[name] = f"{students or study.evaluation.num_test_students} students, scored on {split}"
    show_plan(invocation, plan)
    invocation.finish({"split": split, "plan": plan})
