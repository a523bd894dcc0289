"""Readers of annotation files, one for each format; all faults are reported before an image is opened."""

from collections.abc import Iterator
from pathlib import Path

from rayvldd.config.settings import (
    BlipData,
    CocoData,
    FileData,
    FolderData,
    HuggingFaceData,
    KarpathyData,
    TableData,
    WebDatasetData,
)
from rayvldd.data.caption_tables import read_table
from rayvldd.data.coco_captions import read_coco
from rayvldd.data.hub_datasets import read_hub_dataset
from rayvldd.data.record_reader import (
    SPLITS,
    PackedImage,
    Record,
    RecordReader,
    SplitName,
    json_problem,
    read_json,
    read_text,
    shown,
)
from rayvldd.data.tar_shards import read_tar_shards
from rayvldd.errors import DataError, Fault
from rayvldd.storage.json_files import json_value
from rayvldd.user_paths import is_folder, user_path

__all__ = ["SPLITS", "PackedImage", "Record", "SplitName", "read_records"]


def read_records(settings: FileData) -> list[Record]:
    """Read and check all annotations of a dataset, in the order of the file.

    Raises:
        DataError: listing every fault: missing files, lines that are not JSON, captions that are empty or missing,
            unknown splits, duplicate images, empty splits.
    """
    reader = _reader_of(settings)
    if isinstance(settings, FolderData):
        _read_folder(settings, reader)
    elif isinstance(settings, KarpathyData):
        _read_karpathy(settings, reader)
    elif isinstance(settings, BlipData):
        _read_blip(settings, reader)
    elif isinstance(settings, TableData):
        read_table(settings, reader)
    elif isinstance(settings, CocoData):
        read_coco(settings, reader)
    elif isinstance(settings, HuggingFaceData):
        read_hub_dataset(settings, reader)
    else:
        read_tar_shards(settings, reader)
    reader.check_whole()
    reader.faults = reader.missing.grouped(reader.faults)
    if reader.faults:
        raise _data_error(reader.faults)
    return list(reader.records.values())


def _reader_of(settings: FileData) -> RecordReader:
    """A reader without records, with the folder that the names of images are relative to.

    Raises:
        DataError: if there is no such folder.
    """
    if isinstance(settings, HuggingFaceData):
        return RecordReader(user_path(settings.name).absolute(), ".")
    root = user_path(settings.root).absolute()
    if not is_folder(root):
        fault = Fault("data.root", f"no such folder: {root}", "the folder with the annotations and the images")
        raise _data_error([fault])
    return RecordReader(root, "." if isinstance(settings, CocoData | WebDatasetData) else settings.images)


def _data_error(faults: list[Fault]) -> DataError:
    return DataError(faults, next_command="correct the data or its settings, then: rayvldd check STUDY.yaml")


# --- JSON lines ---------------------------------------------------------------------------------------------------


def _read_folder(settings: FolderData, reader: RecordReader) -> None:
    path = reader.root / user_path(settings.annotations)
    text = read_text(path, "data.annotations", reader)
    if text is None or reader.is_foreign(path, text, "folder"):
        return
    # str.splitlines would also split at characters that are allowed within JSON texts, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            entry = json_value(line)
        except ValueError as error:
            reader.fault(where, f"not JSON: {json_problem(error)}", _FOLDER_LINE)
            continue
        if isinstance(entry, dict):
            reader.add(where, entry.get("image"), entry.get("captions"), entry.get("split"))
        else:
            reader.fault(where, f"is {shown(entry)}", _FOLDER_LINE)


_FOLDER_LINE = '{"image": "NAME.jpg", "captions": ["..."], "split": "train"}'


# --- Karpathy splits ----------------------------------------------------------------------------------------------


def _read_karpathy(settings: KarpathyData, reader: RecordReader) -> None:
    path = reader.root / user_path(settings.annotations)
    content = read_json(path, "data.annotations", reader, "karpathy")
    if content is None:
        return
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        reader.fault(str(path), "has no list 'images'", "a Karpathy-split file such as dataset_flickr30k.json")
        return
    for number, entry in enumerate(images):
        where = f"{path} images[{number}]"
        if not isinstance(entry, dict):
            reader.fault(where, f"is {shown(entry)}", "an object with filename, sentences and split")
            continue
        split = entry.get("split")
        if split == "restval":
            if settings.restval == "drop":
                continue
            split = "train"
        sentences = entry.get("sentences")
        if isinstance(sentences, list):
            sentences = [sentence.get("raw") if isinstance(sentence, dict) else sentence for sentence in sentences]
        name = entry.get("filename")
        if isinstance(name, str) and entry.get("filepath"):  # COCO: train2014 or val2014
            name = f"{entry['filepath']}/{name}"
        reader.add(where, name, sentences, split)


# --- BLIP ---------------------------------------------------------------------------------------------------------


def _read_blip(settings: BlipData, reader: RecordReader) -> None:
    for split in SPLITS:
        path = reader.root / user_path(settings.annotations.replace("{split}", split))
        for where, image, captions in _blip_images(path, reader):
            reader.add(where, image, captions, split)


def _blip_images(path: Path, reader: RecordReader) -> Iterator[tuple[str, object, object]]:
    """Yield each image of a file once: training files have one entry per caption, others a list of captions."""
    content = read_json(path, "data.annotations", reader, "blip")
    if content is not None and not isinstance(content, list):
        reader.fault(str(path), f"is {shown(content)}", 'a list of {"image": ..., "caption": ...}')
        return
    captions: dict[str, list[object]] = {}
    where_first: dict[str, str] = {}
    for number, entry in enumerate(content or []):
        where = f"{path} [{number}]"
        if not isinstance(entry, dict):
            reader.fault(where, f"is {shown(entry)}", 'an object {"image": ..., "caption": ...}')
            continue
        image, caption = entry.get("image"), entry.get("caption")
        if not isinstance(image, str) or not isinstance(caption, list | str):
            yield where, image, caption
            continue
        where_first.setdefault(image, where)
        captions.setdefault(image, []).extend(caption if isinstance(caption, list) else [caption])
    for image, collected in captions.items():
        yield where_first[image], image, collected
