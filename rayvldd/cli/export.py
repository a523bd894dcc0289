"""``rayvldd export``: export of a distilled set for other programs."""

from pathlib import Path
from typing import Any

import click

from rayvldd.cli.invocation import Invocation, RunCommand


@click.command(
    "export",
    cls=RunCommand,
    takes_settings=False,
    examples=[
        "rayvldd export rayvldd_workspace/studies/quickstart/best quickstart_pairs",
        "rayvldd export models:/quickstart@best quickstart_pairs --format datasets",
    ],
)
@click.argument("place", metavar="SET")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["png", "datasets"]),
    default="png",
    show_default=True,
    help="PNG files with JSON lines, or a folder for `load_from_disk` of Hugging Face datasets.",
)
@click.pass_obj
def command(invocation: Invocation, place: str, folder: Path, form: str) -> None:
    """Export the pairs of a distilled SET to FOLDER, for programs other than rayvldd.

    A SET is a folder with a card, or models:/STUDY@best or runs:/RUN/PATH of MLflow. FOLDER must be new or empty and is
    written atomically. PNG files have 8 bits per channel; the exact pixels are in SET, and in the column `pixels` of
    the format `datasets`.
    """
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.distillation.exports import check_form, check_free, clipped_share, export

    check_form(form)
    check_free(folder.expanduser().absolute())
    distilled = DistilledSet.load(place, invocation.workspace_folder)
    result: dict[str, Any] = {"distilled_set": place, "folder": str(folder.expanduser().absolute()), "format": form}
    result |= {"num_pairs": len(distilled), "clipped_share": clipped_share(distilled)}
    if invocation.dry_run:
        invocation.say(f"would write {len(distilled)} pairs as {form} into {result['folder']}")
        return invocation.finish(result)
    export(distilled, folder, form)
    invocation.say(f"{len(distilled)} pairs in {result['folder']}")
    if form == "png":
        invocation.say(f"{result['clipped_share']:.1%} of the pixel values are outside black to white and were clipped")
    if not distilled.nearest_captions:
        invocation.say("no captions: this set has no nearest_captions.jsonl, which sweep and distill write")
    invocation.finish(result)
