"""Collection of a dataset's records, with every fault of its annotations in one message.

All formats share the checks of names, files, captions and splits; a format's module only finds the entries.
"""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from rayvldd.data.annotation_formats import Source, foreign_format
from rayvldd.data.missing_files import MissingFiles
from rayvldd.errors import Fault, did_you_mean, message_of
from rayvldd.records.json_values import JsonValue
from rayvldd.storage.json_files import json_value
from rayvldd.user_paths import files_in, is_file, user_path

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@runtime_checkable
class PackedImage(Protocol):
    """An image inside of a larger file. It can be pickled, and is read on any machine with the same path."""

    @property
    def size(self) -> int:
        """Encoded size in bytes."""
        ...

    @property
    def time(self) -> int:
        """Modification time of the larger file in nanoseconds, or another number that changes with its content."""
        ...

    def read(self) -> bytes:
        """The encoded image."""
        ...


@dataclass(frozen=True)
class Record:
    """One image of a dataset with all its captions."""

    image: str
    """Displayed name, unique within the dataset."""
    path: Path
    """The image file; of a packed image, the larger file with the image's name in it appended."""
    captions: tuple[str, ...]
    """All captions, without surrounding white space."""
    split: SplitName
    """Split that the image belongs to."""
    packed: PackedImage | None = None
    """The image, if it is inside of a larger file."""


class RecordReader:
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
        """Add a fault."""
        self.faults.append(Fault(where, problem, allowed))

    def add(
        self,
        where: str,
        image: object,
        captions: object,
        split: object,
        packed: PackedImage | None = None,
        path: Path | None = None,
    ) -> None:
        """Add one entry as a record, or add its faults.

        Args:
            where: Place of the entry, for its faults.
            image: Name of the image.
            captions: Its captions.
            split: Its split.
            packed: The image, if it is no file of its own.
            path: Displayed path of a packed image.
        """
        before = len(self.faults)
        name = image if isinstance(image, str) and image.strip() != "" and lone_surrogate(image) is None else None
        if name is None:
            self.fault(where, f"image is {shown(image)}", "the name of an image file")
        known_split = next((one for one in SPLITS if one == split), None)
        if known_split is None:
            hint = did_you_mean(split, SPLITS) if isinstance(split, str) else ""
            self.fault(where, f"unknown split {shown(split)}{hint}", ", ".join(SPLITS))
        texts = self._checked_captions(where, captions)
        if name is not None and name in self.first_seen:
            self.fault(where, f"duplicate image {name!r}; first at {self.first_seen[name]}", "each image once")
        elif name is not None:
            self.first_seen[name] = where
            if packed is None:
                self._check_file(where, name)
        if name is not None and known_split is not None and len(self.faults) == before:
            stripped = tuple(caption.strip() for caption in texts)
            self.records[name] = Record(name, path or self.images / name, stripped, known_split, packed)
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
            problem = "no captions" if not captions else f"captions is {shown(captions)}"
            self.fault(where, problem, "a list with at least one text")
            return []
        for number, caption in enumerate(captions):
            if not isinstance(caption, str):
                self.fault(f"{where}: captions[{number}]", f"is {shown(caption)}", "a text")
            elif not caption.strip():
                self.fault(f"{where}: captions[{number}]", "is empty", "a text with at least one word")
            elif (half := lone_surrogate(caption)) is not None:
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


def lone_surrogate(text: str) -> int | None:
    """Position of an unpaired UTF-16 surrogate in a text: JSON can contain one, but it cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def shown(value: object) -> str:
    """A value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_text(path: Path, setting: str, reader: RecordReader) -> str | None:
    """The text of an annotation file; None after a fault."""
    if not is_file(path):
        near = did_you_mean(path.name, (found.name for found in files_in(path.parent, f"*{path.suffix}*")))
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


def read_json(path: Path, setting: str, reader: RecordReader, source: Source) -> JsonValue:
    """The parsed JSON of an annotation file; None after a fault."""
    text = read_text(path, setting, reader)
    if text is None:
        return None
    try:
        content = json_value(text)
        return None if reader.is_foreign(path, text, source, content) else content
    except ValueError as error:
        if reader.is_foreign(path, text, source):
            return None
        line = f" line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reader.fault(f"{path}{line}", f"not JSON: {json_problem(error)}")
        return None


def json_problem(error: ValueError) -> str:
    """Describe why parsing JSON failed. Besides syntax errors: numbers with 5,000 digits, and deep nesting."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return message_of(error)
