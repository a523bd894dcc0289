"""``rayvldd init``: a first study for a user's own data."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import JsonValue

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.errors import ConfigError, Fault
from rayvldd.user_paths import is_file, is_folder, user_path

if TYPE_CHECKING:
    from rayvldd.library.new_study import DataSection

_SMALL, _LARGE = 96, 224
"""Pixels of a side without and with a GPU."""


class _NewStudy(Output):
    study: str
    images: dict[str, int]
    """Number of images by split."""
    settings: dict[str, JsonValue]
    next_command: str


@click.command(
    "init",
    cls=RunCommand,
    short_help="Write a first study for your own images and captions.",
    takes_settings=False,
    examples=[
        "rayvldd init my_study.yaml --data /data/my_pairs",
        "rayvldd init my_study.yaml --csv captions.csv --images photos",
        "rayvldd init my_study.yaml --hf USER/NAME",
        "rayvldd init my_study.yaml --csv results.csv --images flickr30k-images --image-encoder nfnet_l0",
    ],
)
@click.argument("study_file", metavar="STUDY", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder with captions.jsonl, a dataset_NAME.json of Karpathy's splits, NAME_train.json as BLIP reads them, "
    "annotations of COCO, tar files, metadata.jsonl, or a saved data set of Hugging Face.",
)
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Table with a row for each caption and the columns image and caption; it is converted to JSON lines.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the image files that --csv names. Default: the folder of the table.",
)
@click.option(
    "--hf",
    "hub_name",
    metavar="USER/NAME",
    help="Data set of the Hugging Face hub. Its columns and splits are taken from its description; it is downloaded "
    "only if that lacks them. Needs a network and the library datasets.",
)
@click.option("--hf-config", metavar="NAME", help="Configuration of the data set that --hf names, if it has several.")
@click.option("--image-encoder", metavar="NAME", help="A timm model. Default: mobilenetv3_small_100, of the hub.")
@click.option("--image-weights", metavar="FILE", help="Local weights of the timm model that --image-encoder names.")
@click.option("--text-encoder", metavar="NAME", help="Hub name or folder. Default: all-MiniLM-L6-v2, of the hub.")
@click.option("--image-size", type=click.IntRange(16, 1024), metavar="PX", help="Default: 96 px, with a GPU 224 px.")
@click.pass_obj
def command(
    invocation: Invocation,
    study_file: Path,
    folder: Path | None,
    table: Path | None,
    images: Path | None,
    hub_name: str | None,
    hf_config: str | None,
    image_encoder: str | None,
    image_weights: str | None,
    text_encoder: str | None,
    image_size: int | None,
) -> None:
    """Write a commented STUDY for your own images and captions: a search that fits this machine.

    A table without a column `split` is split by chance, a tenth of its images for validation and as many for test. The
    study's resources and the size of the images follow the GPUs of this machine. Nothing is overwritten. An editor with
    a YAML language server completes and checks the study by study.schema.json, which is written beside it.
    """
    captions = study_file.with_suffix(".captions.jsonl")
    faults = [*_faults_of_hub(hub_name, hf_config), *_faults_of_files(folder, table, images)]
    if sum(source is not None for source in (folder, table, hub_name)) != 1:
        allowed = "--data FOLDER, --csv FILE, or --hf USER/NAME"
        faults.append(Fault("--data, --csv, --hf", "exactly one of the three is needed", allowed))
    if image_weights is not None and image_encoder is None:
        allowed = "with --image-encoder NAME, the timm model that the weights are of"
        faults.append(Fault("--image-weights", f"{image_weights} without the name of its model", allowed))
    if faults:
        raise ConfigError(faults, next_command="rayvldd init --help")
    # Captions without their study may be those of the same command that was killed: they are compared with the table.
    _check_is_free([study_file, captions] if table is not None and study_file.exists() else [study_file])

    from rayvldd.library.schema_files import check_schema_is_free, with_schema_line, write_schema_beside
    from rayvldd.runtime.machine import may_have_gpus
    from rayvldd.runtime.machine import num_gpus as gpus_here

    check_schema_is_free(study_file)

    with invocation.waiting("loading PyTorch" if may_have_gpus() else "loading the settings"):
        from rayvldd.config.loading import load_study
        from rayvldd.config.study_files import parsed_yaml
        from rayvldd.library.new_study import Encoders, study_text
        from rayvldd.storage.atomic import write_text_whole

        num_gpus = gpus_here()
    size = image_size or (_LARGE if num_gpus else _SMALL)
    default = Encoders()
    encoders = Encoders(image_encoder or default.image, image_weights, text_encoder or default.text)
    with _kept_with_its_study(captions, is_dry_run=invocation.dry_run) if table is not None else nullcontext():
        if hub_name is not None:
            data, counts = _from_hub(invocation, hub_name, hf_config, size)
        else:
            with invocation.waiting("reading the captions"):
                data, counts = _from_files(folder, table, images, captions, size)
        text = with_schema_line(study_text(study_file.stem, data, counts["train"], encoders, num_gpus))
        values = parsed_yaml(text)
        assert isinstance(values, dict)
        load_study(values)
        if not invocation.dry_run:
            write_schema_beside(study_file)
            write_text_whole(study_file, text)
        else:
            invocation.say(text)
    invocation.say(f"{study_file}: {', '.join(f'{count} {split}' for split, count in counts.items())} images")
    next_command = invocation.in_this_workspace(shlex.join(["rayvldd", "check", str(study_file), "--probe"]))
    invocation.say_next(next_command)
    invocation.finish(_NewStudy(study=str(study_file), images=counts, settings=values, next_command=next_command))


@contextmanager
def _kept_with_its_study(captions: Path, *, is_dry_run: bool) -> Iterator[None]:
    """Remove the captions of a table after a block that writes no study, unless they were there before.

    Args:
        captions: The file.
        is_dry_run: Whether the block writes no study if nothing fails, too.
    """
    is_kept = captions.exists()
    try:
        yield
        is_kept = is_kept or not is_dry_run
    finally:
        if not is_kept:
            with suppress(OSError):  # in a folder that cannot be written: its own error follows
                captions.unlink()


def _from_files(
    folder: Path | None, table: Path | None, images: Path | None, captions: Path, size: int
) -> tuple["DataSection", dict[str, int]]:
    """The section for a table, or else for a folder, and its images by split."""
    from rayvldd.library.new_study import counted_images, data_section

    if table is not None:
        data = _from_table(table, images, captions, size)
    else:
        assert folder is not None
        data = data_section(folder, size)
    return data, counted_images(data)


def _from_table(table: Path, images: Path | None, captions: Path, size: int) -> "DataSection":
    """Write the captions of a table as JSON lines; the section that reads them."""
    from rayvldd.data.caption_tables import convert_caption_table

    place = user_path(images or table.parent).absolute()
    convert_caption_table(user_path(table), place, captions)
    return {
        "source": "folder",
        "root": str(captions.absolute().parent),
        "annotations": captions.name,
        "images": str(place),
        "image_size": size,
    }


def _from_hub(invocation: Invocation, name: str, config: str | None, size: int) -> tuple["DataSection", dict[str, int]]:
    """The section for a data set of the hub, and its images by split; it is downloaded only if it does not say them."""
    from rayvldd.library.new_study import downloaded_images, hub_section

    with invocation.waiting("asking the hub"):
        data, counts = hub_section(name, config, size)
    if counts is None:
        invocation.say(f"{name}: its description does not tell the images of each split, so all of it is read")
        with invocation.waiting("reading the captions"):
            counts = downloaded_images(data)
    return data, counts


def _faults_of_files(folder: Path | None, table: Path | None, images: Path | None) -> list[Fault]:
    faults = []
    if images is not None and table is None:
        faults.append(Fault("--images", "given without --csv", "the folder of the files that a table names"))
    elif images is not None and not is_folder(images):
        faults.append(Fault("--images", f"no such folder: {images}", "the folder of the files that the table names"))
    if table is not None and not is_file(table):
        faults.append(Fault("--csv", f"no such file: {table}", "a table with the columns image and caption"))
    if folder is not None and not is_folder(folder):
        faults.append(Fault("--data", f"no such folder: {folder}", "a folder with images and captions"))
    return faults


def _faults_of_hub(hub_name: str | None, hf_config: str | None) -> list[Fault]:
    from rayvldd.data.hub_datasets import HUB_NAME

    faults = []
    if hub_name is not None and not HUB_NAME.fullmatch(hub_name) and not is_folder(Path(hub_name)):
        allowed = "USER/NAME, as the page of the data set has it"
        faults.append(Fault("--hf", f"{hub_name!r} is no name on the hub", allowed))
    if hf_config is not None and hub_name is None:
        faults.append(Fault("--hf-config", f"{hf_config} given without --hf", "with --hf USER/NAME"))
    return faults


def _check_is_free(files: list[Path]) -> None:
    faults = [Fault(str(file), "is there already", "a file that does not exist") for file in files if file.exists()]
    if faults:
        which = "the file" if len(faults) == 1 else "the files"
        raise ConfigError(faults, next_command=f"the same command with another name, or remove {which}")
