"""``rayvldd convert``: a set that the released code of another paper saved becomes a distilled set of rayvldd."""

import shlex
from pathlib import Path

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.cli.preparation import checked_study, dry_run, study_argument
from rayvldd.cli.scoring import read_rates
from rayvldd.errors import InputError
from rayvldd.user_paths import user_path


class _ConvertedSet(Output):
    distilled_set: str
    num_pairs: int
    lr_student_image: float
    lr_student_text: float


@click.command(
    "convert",
    cls=RunCommand,
    short_help="Read a set that the code of another paper has saved.",
    examples=[
        "rayvldd convert search_spaces/flickr30k_lors.yaml distilled_2000.pt --out lors_100",
        "rayvldd convert search_spaces/flickr30k_nfnet_bert.yaml images_best.pt --texts labels_best.pt "
        "--lr-student 0.1,0.1 --out wu_100",
    ],
)
@study_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--texts", type=click.Path(path_type=Path), metavar="FILE", help="Caption embeddings, if FILE has none.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Folder for the set.")
@click.option(
    "--pixels",
    type=click.Choice(["clip", "imagenet", "unit"]),
    default="clip",
    show_default=True,
    help="Scale of the stored images: normalised as for CLIP, as for ImageNet, or from 0 to 1.",
)
@click.option("--lr-student", metavar="IMAGE,TEXT", help="Learning rates of students, in place of those of FILE.")
@click.pass_obj
def command(
    invocation: Invocation,
    study_file: Path,
    file: Path,
    texts: Path | None,
    out: Path,
    pixels: str,
    lr_student: str | None,
) -> None:
    """Convert FILE, as the codes of LoRS, RepBlend, PTM-ST or Wu et al. save it, to a distilled set.

    FILE names no encoder. STUDY declares the data, the encoders and the training of students; its widths and sizes
    must be those of the set. Only tensors are read from FILE.
    """
    rates, faults = read_rates(lr_student)
    if faults:
        raise InputError(faults, next_command="rayvldd convert --help")

    with invocation.waiting("loading PyTorch"):
        from rayvldd.distillation.released_sets import converted, declared_study, faults_of_released, read_released
        from rayvldd.storage.new_folders import check_free, new_folder_written_whole

    target = user_path(out).absolute()
    check_free(target)
    with invocation.waiting(f"reading {file.name}"):
        released = read_released(user_path(file), user_path(texts) if texts is not None else None)
    study, workspace = checked_study(invocation, study_file)
    point = declared_study(study.at(study.first_point()), released)

    with invocation.waiting("loading the models"):
        from rayvldd.data.prepared_arrays import open_cache
        from rayvldd.models.retrieval_task import load_task

    with invocation.display() as display:
        task = load_task(point.data, point.model, open_cache(workspace.cache), on_progress=display.progress)
    if faults := faults_of_released(released, task, rates):
        raise InputError(faults, next_command=f"correct them, then: {invocation.line}")
    with invocation.waiting("converting the pairs"):
        made = converted(released, point, task, pixels, rates)
    if invocation.dry_run:
        return dry_run(invocation, point, {"distilled_set": str(target), "pairs": len(made)})
    with new_folder_written_whole(target) as part:  # cut off within a set, the same command would be refused
        made.save(part)
    invocation.say(f"{target}\n{made.describe()}")
    invocation.say_next(invocation.in_this_workspace(shlex.join(["rayvldd", "evaluate", str(out), "--trust"])))
    lr_image, lr_text = made.lr_student_image, made.lr_student_text
    invocation.finish(
        _ConvertedSet(
            distilled_set=str(target), num_pairs=len(made), lr_student_image=lr_image, lr_student_text=lr_text
        )
    )
