"""``rayvldd export``: export of a distilled set or of a study's trials for other programs."""

import shlex
from pathlib import Path

import click

from rayvldd.cli import completion
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.user_paths import user_path

_FORMS_OF_SETS, _FORMS_OF_STUDIES = ("png", "datasets", "hub"), ("optuna", "csv")


class _ExportedStudy(Output):
    study: str
    folder: str
    format: str
    files: list[Path] | None = None


class _ExportedSet(Output):
    distilled_set: str
    folder: str
    format: str
    num_pairs: int
    clipped_share: float
    """Share of the pixel values outside black to white."""
    commit: str | None = None
    """Address of the upload of ``--push``."""


@click.command(
    "export",
    cls=RunCommand,
    short_help="Write a set or a study's trials for other programs.",
    takes_settings=False,
    examples=[
        "rayvldd export rayvldd_workspace/studies/quickstart/best quickstart_pairs",
        "rayvldd export models:/quickstart@best quickstart_pairs --format datasets",
        "rayvldd export models:/quickstart@best quickstart_repository --format hub --push user/quickstart",
        "rayvldd export quickstart --format csv",
        "rayvldd export quickstart quickstart_journal --format optuna",
    ],
)
@click.argument("place", metavar="SET|STUDY", shell_complete=completion.study_names)
@click.argument("folder", metavar="[FOLDER]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice([*_FORMS_OF_SETS, *_FORMS_OF_STUDIES]),
    default="png",
    show_default=True,
    help="Of a set: PNG files with JSON lines, a folder for `load_from_disk` of Hugging Face datasets, or a repository "
    "for its hub, with a dataset card. Of a study: a journal for Optuna and optuna-dashboard, or CSV files of its "
    "trials and of every evaluation.",
)
@click.option(
    "--push", metavar="USER/NAME", help="With --format hub: also upload to this data set, a private one if new."
)
@click.pass_context
def command(context: click.Context, place: str, folder: Path | None, form: str, push: str | None) -> None:
    """Export the pairs of a distilled SET, or the trials of a STUDY, to FOLDER for programs other than rayvldd.

    A SET is a folder with a card, models:/STUDY@best or runs:/RUN/PATH of MLflow, or hf://USER/NAME. FOLDER must be new
    or empty and is written atomically; a repeated `--push` uploads the folder that it finds. PNG files have 8 bits per
    channel; the exact pixels are in SET, and in the column `pixels` of the formats `datasets` and `hub`. The format
    `hub` contains SET itself, with its start pairs.

    A STUDY is the name of a study of the workspace, or its folder; it may be running. FOLDER is STUDY_optuna or
    STUDY_csv if it is not given.
    """
    if push is not None and form != "hub":
        raise click.UsageError("--push needs --format hub.", context)
    if form in _FORMS_OF_STUDIES:
        return _export_study(context.obj, place, folder, form)
    if folder is None:
        raise click.UsageError("Missing argument 'FOLDER': where to write the set.", context)
    return _export_set(context.obj, place, folder, form, push)


def _export_study(invocation: Invocation, place: str, folder: Path | None, form: str) -> None:
    with invocation.waiting("reading the study"):
        from rayvldd.hyperparameter_search.study_exports import export_study
        from rayvldd.hyperparameter_search.study_folder import named_study
        from rayvldd.storage.new_folders import check_free
        from rayvldd.workspace import Workspace

    study = named_study(Workspace(invocation.workspace_folder), place)
    target = user_path(folder or f"{study.root.name}_{form}").absolute()
    check_free(target)
    if invocation.dry_run:
        invocation.say(f"would write the trials of {study.root} as {form} into {target}")
        return invocation.finish(_ExportedStudy(study=study.root.name, folder=str(target), format=form))
    with invocation.waiting("writing the trials"):
        files = export_study(study, target, form)
    for file in files:
        invocation.say(str(file))
    if form == "optuna":
        invocation.say_next(shlex.join(["optuna-dashboard", str(files[0])]))
    return invocation.finish(_ExportedStudy(study=study.root.name, folder=str(target), format=form, files=files))


def _export_set(invocation: Invocation, place: str, folder: Path, form: str, pushed_to: str | None) -> None:
    with invocation.waiting("loading PyTorch"):
        from rayvldd.distillation.distilled_set import DistilledSet
        from rayvldd.distillation.exports import check_form, clipped_share, export
        from rayvldd.records.set_scores import kept_scores, rows_of_set
        from rayvldd.storage.hub import check_repository_name, push
        from rayvldd.storage.new_folders import check_free
        from rayvldd.workspace import Workspace

    check_form(form)
    if pushed_to is not None:
        check_repository_name(pushed_to, "--push")
    target = user_path(folder).absolute()
    if pushed_to is None:
        check_free(target)
    with invocation.waiting("reading the set"):
        distilled = DistilledSet.load(place, invocation.workspace_folder)
        is_written = pushed_to is not None and distilled.is_exported(target)
        if not is_written:
            check_free(target)
        result = _ExportedSet(
            distilled_set=place,
            folder=str(target),
            format=form,
            num_pairs=len(distilled),
            clipped_share=clipped_share(distilled),
        )
    if invocation.dry_run:
        written = f"would write {len(distilled)} pairs as {form} into {result.folder}"
        invocation.say(f"would upload {result.folder} as it is" if is_written else written)
        return invocation.finish(result)
    if is_written:
        invocation.say(f"{len(distilled)} pairs are in {result.folder} already; its files are uploaded as they are")
    else:
        _, evaluations, _ = kept_scores(Workspace(invocation.workspace_folder).scores)
        with invocation.waiting("writing the pairs"):
            export(distilled, target, form, rows_of_set(evaluations, place) if form == "hub" else ())
        invocation.say(f"{len(distilled)} pairs in {result.folder}")
    if form == "png":
        invocation.say(f"{result.clipped_share:.1%} of the pixel values are outside black to white and were clipped")
    if not distilled.nearest_captions:
        invocation.say("no captions: this set has no nearest_captions.jsonl, which sweep and distill write")
    if form == "hub":
        invocation.say("the card has no licence: state it in README.md before you publish the folder")
    if pushed_to is not None:
        with invocation.waiting(f"uploading to {pushed_to}"):
            commit = push(Path(result.folder), pushed_to)
        result = result.model_copy(update={"commit": commit})
        invocation.say(f"uploaded: {commit}")
        invocation.say_next(f"rayvldd evaluate hf://{pushed_to}")
    return invocation.finish(result)
