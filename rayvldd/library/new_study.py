"""A first study for a user's own images and captions, as a commented file."""

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rayvldd.config.settings import HuggingFaceData
from rayvldd.data.annotations import SPLITS, read_records
from rayvldd.data.hub_datasets import SAVED, check_library, command_to_save, described, read_description
from rayvldd.errors import DataError, Fault, message_of
from rayvldd.storage.hub_access import HubAwayError, hub_or_cache
from rayvldd.user_paths import is_folder, user_path

DataSection = Mapping[str, str | int | list[str]]
"""Settings of ``data``."""

SETTINGS_OF_FLICKR8K = 280
"""Gradient steps of an expert of ``search_spaces/flickr8k_cpu.yaml``: 6 epochs of 5,999 images in batches of 128."""
_MOST_EPOCHS = 40
_BATCH = 128


@dataclass(frozen=True)
class Encoders:
    """The encoders of a new study."""

    image: str = "mobilenetv3_small_100"
    """A timm name."""
    image_weights: str | None = None
    """A local file of its weights; default: from the hub."""
    text: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub name or local folder of a sentence encoder."""


def data_section(folder: Path, image_size: int) -> dict[str, str | int]:
    """The ``data`` section that reads a folder, by the annotation file that it holds.

    Raises:
        DataError: when the folder holds no annotation file that is read.
    """
    folder = user_path(folder).absolute()
    karpathy = sorted(folder.glob("dataset_*.json"))
    if (folder / "captions.jsonl").is_file():
        return {"source": "folder", "root": str(folder), "image_size": image_size}
    # dataset_info.json is a name that a pattern of Karpathy's files matches as well.
    if any((folder / name).is_file() for name in SAVED) or sorted(folder.glob("*/metadata.jsonl")):
        return {"source": "huggingface", "name": str(folder), "image_size": image_size}
    if karpathy:
        return {"source": "karpathy", "root": str(folder), "annotations": karpathy[0].name, "image_size": image_size}
    if blip := sorted(folder.glob("*_train.json")):
        pattern = blip[0].name.replace("_train.json", "_{split}.json")
        return {"source": "blip", "root": str(folder), "annotations": pattern, "image_size": image_size}
    if (folder / "annotations" / "captions_train2017.json").is_file():
        return {"source": "coco", "root": str(folder), "image_size": image_size}
    if (folder / "metadata.jsonl").is_file():
        images = {"annotations": "metadata.jsonl", "images": "."}
        return {"source": "table", "root": str(folder), **images, "image_size": image_size}
    if sorted(folder.glob("*.tar")):
        return {"source": "webdataset", "root": str(folder), "image_size": image_size}
    allowed = (
        "captions.jsonl, dataset_NAME.json (Karpathy's splits), NAME_train.json (BLIP), annotations/ of COCO, "
        "tar files, metadata.jsonl or a saved data set of Hugging Face; for a table: --csv FILE"
    )
    raise DataError([Fault(str(folder), "has no annotation file", allowed)], next_command="rayvldd init --help")


def hub_section(name: str, config: str | None, image_size: int) -> tuple[DataSection, dict[str, int] | None]:
    """The ``data`` section that reads a data set of the hub, by its description; no image is downloaded.

    Args:
        name: On the hub, or a folder that the library ``datasets`` reads.
        config: Its configuration, if it has several.
        image_size: Side of the images in pixels.

    Returns:
        The section, with the columns if the description has them; the number of images by split, or None if only the
        rows tell: the description lacks it, or a column names the split of each row.

    Raises:
        DataError: if the library is missing, the hub cannot be reached, it has no such data set, or a column or split
            is missing.
    """
    folder = user_path(name)
    is_local = is_folder(folder)
    section: dict[str, str | int | list[str]] = {
        "source": "huggingface",
        "name": str(folder.absolute()) if is_local else name,
    }
    if config is not None:
        section["config"] = config
    settings = HuggingFaceData.model_validate(section)
    check_library()  # before the hub is tried, whose error would stand for this one
    try:
        with nullcontext() if is_local else hub_or_cache():
            info = read_description(settings)
    except DataError:
        raise
    except (HubAwayError, ConnectionError) as error:
        problem = f"{name}: the hub cannot be reached: {message_of(error)}"
        raise DataError([Fault("--hf", problem)], next_command=_elsewhere(section)) from None
    except Exception as error:  # the library raises errors of many other libraries
        problem = f"{name} cannot be opened: {message_of(error)}"
        allowed = "a data set on the hub, with --hf-config NAME if it has several configurations"
        raise DataError([Fault("--hf", problem, allowed)], next_command="rayvldd init --help") from None
    try:
        found = described(settings, info) if info is not None else None
    except DataError as error:
        raise DataError(error.faults, next_command=_correction(section, error.faults)) from None
    if found is not None:
        section |= {"image": found.image, "captions": list(found.captions)}
    counts = found.num_images if found is not None else None
    return section | {"image_size": image_size}, None if counts is None else {split: counts[split] for split in SPLITS}


def downloaded_images(section: DataSection) -> dict[str, int]:
    """Number of images by split of a data set of the hub, which is downloaded whole.

    Raises:
        DataError: listing every fault of its rows, or that it cannot be downloaded.
    """
    try:
        return counted_images(section)
    except DataError as error:
        raise DataError(error.faults, next_command=_correction(section, error.faults)) from None


def _elsewhere(section: DataSection) -> str:
    """The next command where the hub cannot be reached."""
    config = section.get("config")
    saving = command_to_save(str(section["name"]), None if config is None else str(config))
    return (
        f"the same command with a network; or on a machine that has one: {saving}, "
        "and here: rayvldd init STUDY --data FOLDER"
    )


def _correction(section: DataSection, faults: list[Fault]) -> str:
    """The next command for a data set that is not downloaded, or whose columns, splits or rows have faults."""
    places = {fault.where for fault in faults}
    if "data.name" in places:
        return _elsewhere(section)
    if not places & {"data.image", "data.captions"}:
        return "correct a copy of the data set, save it with save_to_disk, then: rayvldd init STUDY --data FOLDER"
    columns = "image: COLUMN, captions: [COLUMN]"
    settings = ", ".join(f"{key}: {section[key]}" for key in ("source", "name", "config") if key in section)
    return f"rayvldd spaces copy flickr8k_cpu STUDY, and in that file: data: {{{settings}, {columns}}}"


def counted_images(data: DataSection) -> dict[str, int]:
    """Number of images by split; reads the annotations whole.

    Raises:
        DataError: listing every fault of the annotations.
    """
    from pydantic import TypeAdapter

    from rayvldd.config.settings import DataSettings, ToyScenesData

    settings = TypeAdapter[DataSettings](DataSettings).validate_python(data)
    assert not isinstance(settings, ToyScenesData)
    records = read_records(settings)
    return {split: sum(record.split == split for record in records) for split in SPLITS}


def study_text(name: str, data: DataSection, num_train: int, encoders: Encoders, num_gpus: int) -> str:
    """A commented study file for a data section: a search over the settings that matter most.

    An expert gets about as many gradient steps as in the measured study of Flickr8k, whatever the number of images. Of
    the many epochs of few images only the first ones are searched as starts: an expert that has nearly learned its
    images hardly moves, and pairs that are matched to such a segment diverge (see ``docs/guides/rates.md``).

    Args:
        name: Name of the study.
        data: Its section ``data``.
        num_train: Training images of the data.
        encoders: Its encoders.
        num_gpus: GPUs of this machine; two trials share one.
    """
    epochs = min(_MOST_EPOCHS, max(6, math.ceil(SETTINGS_OF_FLICKR8K * _BATCH / num_train)))
    num_pairs = min(100, max(2, num_train // 10))
    weights = f"\n    weights: {json.dumps(encoders.image_weights)}" if encoders.image_weights else ""
    section = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in data.items())
    latest = min(epochs - 1, max(5, epochs // 4))
    return _TEMPLATE.format(
        name=json.dumps(name),
        data=section,
        image=json.dumps(encoders.image),
        weights=weights,
        text=json.dumps(encoders.text),
        epochs=epochs,
        batch=min(_BATCH, num_train),
        small_batch=max(2, min(_BATCH, num_train) // 4),
        num_pairs=num_pairs,
        student_batch=max(2, min(100, num_pairs)),
        latest=latest,
        first=latest * 4 // 5,
        resources=_GPU.format(trials=2 * num_gpus) if num_gpus else _CPU,
        num_train=num_train,
    )


_CPU = """\
# No GPU was found on this machine.
resources:
  cpus_per_expert: 1
  cpus_per_trial: 1
"""
_GPU = """\
# Two trials share a GPU; with search.max_concurrent: {trials} all GPUs of this machine are used.
resources:
  gpus_per_expert: 0.5
  gpus_per_trial: 0.5
"""
_TEMPLATE = """\
# A first search on {num_train} training images. Written by `rayvldd init`; every value can be changed.
#
# Check:    rayvldd check THIS_FILE --probe     # reads the data, tries the encoders, estimates the time
# Run:      rayvldd sweep THIS_FILE
# Settings: rayvldd check THIS_FILE --dry-run --json   # all of them, with their defaults
name: {name}

data:
{data}
model:
  protocol: heads_only            # frozen encoders, trained projection heads: the cheapest protocol
  image_encoder:
    name: {image}{weights}
  text_encoder:
    pooling: mean                 # cls for BERT, clip for CLIP's text tower
    name: {text}

# Models trained on the real pairs, whose trajectories the synthetic pairs are matched to.
experts:
  num_experts: 8
  epochs: {epochs}
  batch_size: {batch}
  captions_per_image: one

distillation:
  num_pairs: {num_pairs}
  outer_steps: 160                # more steps, better pairs; the time grows in proportion
  evaluate_every: 20
  lr_student_image: 0.05
  lr_student_text: 0.05
  ema_decay: 0.95
  initialisation:
    pairs: k_means

evaluation:
  batch_size: {student_batch}
  full_data:                      # recipes for models of all pairs; the best one is the full-data bound
    epochs: [{epochs}]
    batch_sizes: [{small_batch}, {batch}]

search:
  # The rates differ most between datasets: published ones by a factor of 50. These were tried with 500 and with
  # 8,000 photographs; docs/guides/rates.md says what to change if trials diverge or nothing rises above its start.
  # For another protocol: distillation.outer_optimiser: scaled_sgd, with ranges around 1000, 1000 and 0.01 (lr_lr),
  # and lower first step sizes where the matching loss is far above 2 in the first steps.
  space:
    distillation.trajectory_matching.syn_steps: {{type: int, low: 8, high: 24, step: 4}}
    distillation.trajectory_matching.max_start_epoch: {{type: int, low: 1, high: {latest}}}
    distillation.lr_image: {{type: float, low: 30, high: 1000, log: true}}
    distillation.lr_text: {{type: float, low: 100, high: 2000, log: true}}
    distillation.trajectory_matching.lr_lr: {{type: float, low: 0.001, high: 0.03, log: true}}
  initial_points:                 # the first trials
    - distillation.trajectory_matching.syn_steps: 16
      distillation.trajectory_matching.max_start_epoch: {first}
      distillation.lr_image: 300
      distillation.lr_text: 1000
      distillation.trajectory_matching.lr_lr: 0.0014
  num_trials: 12
  num_start_trials: 4
  grace_evaluations: 2
  reduction_factor: 3
  num_finalists: 1

{resources}"""
