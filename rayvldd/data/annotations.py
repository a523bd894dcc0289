"""Readers of annotation files, one for each format; all faults are reported before an image is opened."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayvldd.config.settings import BlipData, FileData, FolderData, KarpathyData
from rayvldd.data.annotation_formats import Source, foreign_format
from rayvldd.data.missing_files import MissingFiles
from rayvldd.errors import DataError, Fault, did_you_mean, message_of
from rayvldd.records.json_values import JsonValue
from rayvldd.user_paths import files_in, is_file, is_folder, user_path

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Record:
    """One image of a dataset with all its captions."""

    image: str
    """Displayed name, unique within the dataset."""
    path: Path
    """The image file."""
    captions: tuple[str, ...]
    """All captions, without surrounding white space."""
    split: SplitName
    """Split that the image belongs to."""


def read_records(settings: FileData) -> list[Record]:
    """Read and check all annotations of a dataset, in the order of the file.

    Raises:
        DataError: listing every fault: missing files, lines that are not JSON, captions that are empty or missing,
            unknown splits, duplicate images, empty splits.
    """
    reader = _Reader(user_path(settings.root).absolute(), settings.images)
    if not is_folder(reader.root):
        fault = Fault("data.root", f"no such folder: {reader.root}", "the folder with the annotations and the images")
        raise _data_error([fault])
    if isinstance(settings, FolderData):
        _read_folder(settings, reader)
    elif isinstance(settings, KarpathyData):
        _read_karpathy(settings, reader)
    else:
        _read_blip(settings, reader)
    reader.check_whole()
    reader.faults = reader.missing.grouped(reader.faults)
    if reader.faults:
        raise _data_error(reader.faults)
    return list(reader.records.values())


def _data_error(faults: list[Fault]) -> DataError:
    return DataError(faults, next_command="correct the data or its settings, then: rayvldd check STUDY.yaml")


class _Reader:
    """Collects records and faults from one dataset."""

    def __init__(self, root: Path, images: str) -> None:
        self.root = root
        self.images = root / user_path(images)
        self.missing = MissingFiles(root, self.images)
        self.records: dict[str, Record] = {}
        self.faults: list[Fault] = []
        self.first_seen: dict[str, str] = {}
        self._files: dict[tuple[int, int], tuple[Path, str]] = {}
        """(device, inode) of each image file -> its path, and the place that names it first."""
        self.has_lost_entries = False

    def fault(self, where: str, problem: str, allowed: str = "") -> None:
        self.faults.append(Fault(where, problem, allowed))

    def add(self, where: str, image: object, captions: object, split: object) -> None:
        """Add one entry as a record, or add its faults."""
        before = len(self.faults)
        name = image if isinstance(image, str) and image.strip() != "" and _lone_surrogate(image) is None else None
        if name is None:
            self.fault(where, f"image is {_shown(image)}", "the name of an image file")
        known_split = next((one for one in SPLITS if one == split), None)
        if known_split is None:
            hint = did_you_mean(split, SPLITS) if isinstance(split, str) else ""
            self.fault(where, f"unknown split {_shown(split)}{hint}", ", ".join(SPLITS))
        texts = self._checked_captions(where, captions)
        if name is not None and name in self.first_seen:
            self.fault(where, f"duplicate image {name!r}; first at {self.first_seen[name]}", "each image once")
        elif name is not None:
            self.first_seen[name] = where
            self._check_file(where, name)
        if name is not None and known_split is not None and len(self.faults) == before:
            stripped = tuple(caption.strip() for caption in texts)
            self.records[name] = Record(name, self.images / name, stripped, known_split)
        else:
            self.has_lost_entries = True

    def _check_file(self, where: str, image: str) -> None:
        """Check that an image file exists, is inside the folder and was not named before under another name."""
        path = self.images / image
        if self._is_outside(image):
            self.fault(where, f"image {image!r} is outside of {self.images}", "a data.images that contains all images")
            return
        try:
            status = path.stat()
        except (OSError, ValueError):  # ValueError: a null character
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            self.missing.note(len(self.faults), image)
            self.fault(where, f"no such image file: {path}{self.missing.hint(image)}")
            return
        # realpath is called only if two names have the same inode: 30,000 calls would take a second.
        known, first = self._files.setdefault((status.st_dev, status.st_ino), (path, where))
        if known is not path and os.path.realpath(known) == os.path.realpath(path):
            self.fault(where, f"duplicate image {image!r} under another name; first at {first}", "each image file once")

    def _is_outside(self, image: str) -> bool:
        """Whether a name refers to a path outside the folder. A symbolic link in the folder may point anywhere."""
        name = Path(os.path.normpath(image))
        if name.is_absolute():
            return not name.is_relative_to(os.path.normpath(self.images))
        return name.parts[:1] == (os.pardir,)

    def _checked_captions(self, where: str, captions: object) -> list[str]:
        """The captions of an entry, whose faults are added."""
        if not isinstance(captions, list) or not captions:
            shown = "no captions" if not captions else f"captions is {_shown(captions)}"
            self.fault(where, shown, "a list with at least one text")
            return []
        for number, caption in enumerate(captions):
            if not isinstance(caption, str):
                self.fault(f"{where}: captions[{number}]", f"is {_shown(caption)}", "a text")
            elif not caption.strip():
                self.fault(f"{where}: captions[{number}]", "is empty", "a text with at least one word")
            elif (half := _lone_surrogate(caption)) is not None:
                problem = f"has half a character, \\u{ord(caption[half]):04x}, at position {half}"
                self.fault(f"{where}: captions[{number}]", problem, "text that was not cut inside an emoji")
        return [caption for caption in captions if isinstance(caption, str)]

    def is_foreign(self, path: Path, text: str, source: Source, content: object = None) -> bool:
        """Whether a file is in another known format; this is then the only fault that is reported for the file."""
        known = foreign_format(text, source, content)
        if known:
            self.fault("data.annotations", f"{path} is {known.name}", known.read_by)
        return known is not None

    def check_whole(self) -> None:
        """Add a fault for every empty split, unless other faults may be the reason."""
        if self.has_lost_entries or self.faults:
            return
        filled = {record.split for record in self.records.values()}
        for split in SPLITS:
            if split not in filled:
                counts = f"{len(self.records)} images in {', '.join(sorted(filled)) or 'no split'}"
                self.fault(str(self.root), f"the split {split!r} is empty ({counts})", "at least one image per split")


def _lone_surrogate(text: str) -> int | None:
    """Position of an unpaired UTF-16 surrogate in a text: JSON can contain one, but it cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- JSON lines ---------------------------------------------------------------------------------------------------


def _read_folder(settings: FolderData, reader: _Reader) -> None:
    path = reader.root / user_path(settings.annotations)
    text = _read_text(path, "data.annotations", reader)
    if text is None or reader.is_foreign(path, text, "folder"):
        return
    # str.splitlines would also split at characters that are allowed within JSON texts, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            reader.fault(where, f"not JSON: {_json_problem(error)}", _FOLDER_LINE)
            continue
        if isinstance(entry, dict):
            reader.add(where, entry.get("image"), entry.get("captions"), entry.get("split"))
        else:
            reader.fault(where, f"is {_shown(entry)}", _FOLDER_LINE)


_FOLDER_LINE = '{"image": "NAME.jpg", "captions": ["..."], "split": "train"}'


# --- Karpathy splits ----------------------------------------------------------------------------------------------


def _read_karpathy(settings: KarpathyData, reader: _Reader) -> None:
    path = reader.root / user_path(settings.annotations)
    content = _read_json(path, "data.annotations", reader, "karpathy")
    if content is None:
        return
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        reader.fault(str(path), "has no list 'images'", "a Karpathy-split file such as dataset_flickr30k.json")
        return
    for number, entry in enumerate(images):
        where = f"{path} images[{number}]"
        if not isinstance(entry, dict):
            reader.fault(where, f"is {_shown(entry)}", "an object with filename, sentences and split")
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


def _read_blip(settings: BlipData, reader: _Reader) -> None:
    for split in SPLITS:
        path = reader.root / user_path(settings.annotations.replace("{split}", split))
        for where, image, captions in _blip_images(path, reader):
            reader.add(where, image, captions, split)


def _blip_images(path: Path, reader: _Reader) -> Iterator[tuple[str, object, object]]:
    """Yield each image of a file once: training files have one entry per caption, others a list of captions."""
    content = _read_json(path, "data.annotations", reader, "blip")
    if content is not None and not isinstance(content, list):
        reader.fault(str(path), f"is {_shown(content)}", 'a list of {"image": ..., "caption": ...}')
        return
    captions: dict[str, list[object]] = {}
    where_first: dict[str, str] = {}
    for number, entry in enumerate(content or []):
        where = f"{path} [{number}]"
        if not isinstance(entry, dict):
            reader.fault(where, f"is {_shown(entry)}", 'an object {"image": ..., "caption": ...}')
            continue
        image, caption = entry.get("image"), entry.get("caption")
        if not isinstance(image, str) or not isinstance(caption, list | str):
            yield where, image, caption
            continue
        where_first.setdefault(image, where)
        captions.setdefault(image, []).extend(caption if isinstance(caption, list) else [caption])
    for image, collected in captions.items():
        yield where_first[image], image, collected


# --- files --------------------------------------------------------------------------------------------------------


def _read_text(path: Path, setting: str, reader: _Reader) -> str | None:
    if not is_file(path):
        near = did_you_mean(path.name, (found.name for found in files_in(path.parent, "*.json*")))
        reader.fault(setting, f"no such file: {path}{near}", "the annotation file, relative to data.root")
        return None
    try:
        return path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reader.fault(setting, f"{path} cannot be read: {error}{_other_encoding(path)}", "a UTF-8 text file")
        return None


def _other_encoding(path: Path) -> str:
    """Message about the encoding of a file that begins with the byte order mark of UTF-16; else empty."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError:
        return ""
    return " (it begins with the byte order mark of UTF-16)" if start in (b"\xff\xfe", b"\xfe\xff") else ""


def _read_json(path: Path, setting: str, reader: _Reader, source: Source) -> JsonValue:
    text = _read_text(path, setting, reader)
    if text is None:
        return None
    try:
        content = json.loads(text)
        return None if reader.is_foreign(path, text, source, content) else content
    except (ValueError, RecursionError) as error:
        if reader.is_foreign(path, text, source):
            return None
        line = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reader.fault(f"{path}{line}", f"not JSON: {_json_problem(error)}")
        return None


def _json_problem(error: ValueError | RecursionError) -> str:
    """Describe why parsing JSON failed. Besides syntax errors: numbers with 5,000 digits, and deep nesting."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else message_of(error)
