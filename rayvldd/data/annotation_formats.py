"""Recognition of annotation files that are in another format than ``data.source`` names.

Such a file would cause a fault on every line. Instead, one message names its format and the setting that reads it.
"""

import re
from typing import Literal, NamedTuple

from rayvldd.storage.json_files import json_value

Source = Literal["folder", "karpathy", "blip", "table", "coco"]


class KnownFormat(NamedTuple):
    """Description of an annotation format for error messages."""

    name: str
    read_by: str
    """The setting that reads the file, or another file with the same captions in a supported format."""
    source: Source | None = None
    """The source that reads it."""


_TABLE: Source = "table"
_READ: dict[Source, KnownFormat] = {
    "folder": KnownFormat("a file with one JSON object per line", "data.source: folder, which reads it", "folder"),
    "karpathy": KnownFormat("a file of Karpathy's splits", "data.source: karpathy, which reads it", "karpathy"),
    "blip": KnownFormat(
        "a file in BLIP's format, with one split", "data.source: blip, with {split} in the name", "blip"
    ),
    "coco": KnownFormat(
        "COCO's original captions file, with one split",
        "data.source: coco, which reads it; or dataset_coco.json of Karpathy's splits, with data.source: karpathy",
        "coco",
    ),
}
_FLICKR30K = KnownFormat(
    "Flickr30k's original captions file, without splits",
    "data.source: table, which draws splits; or dataset_flickr30k.json of Karpathy's splits, with "
    "data.source: karpathy",
    _TABLE,
)
_FLICKR8K = KnownFormat(
    "Flickr8k's original captions file, without splits",
    "data.source: table, which draws splits; or dataset_flickr8k.json of Karpathy's splits, with data.source: karpathy",
    _TABLE,
)
_TOKENS = KnownFormat(
    "Flickr's original captions file (NAME.jpg#0, a tab, the caption), without splits",
    "data.source: table, which draws splits; or dataset_flickr8k.json or dataset_flickr30k.json of Karpathy's splits, "
    "with data.source: karpathy",
    _TABLE,
)
_IMAGEFOLDER = KnownFormat(
    "the metadata of a Hugging Face image folder (file_name and a text), without splits",
    "data.source: table, which draws splits; or data.source: huggingface with the folder as data.name",
    _TABLE,
)
_ONE_LIST = KnownFormat(
    "one JSON list",
    'one line per image, without the brackets and commas of the list: {"image": "NAME.jpg", "captions": ["..."], ...}',
)


def foreign_format(text: str, source: Source, content: object = None) -> KnownFormat | None:
    """Recognise a file that is in another known format; None if its format is that of ``source``, or unknown.

    Args:
        text: Text of the whole file.
        source: The source that the study names.
        content: The parsed file, if the caller has parsed it already; parsing COCO's file takes seconds.
    """
    start = text.lstrip()
    first_line = start.partition("\n")[0].rstrip()
    if not start.startswith(("{", "[")):
        found = _of_columns(first_line)
        return None if source == "table" else found
    line = _parsed(first_line) if content is None else None
    if content is None:
        content = line if line is not None and "\n" not in start.rstrip() else _parsed(start)
    found = _of_line(content) or _of_content(content) if content is not None else _of_line(line)
    return None if found is None or found.source == source else found


def _of_columns(first_line: str) -> KnownFormat | None:
    if re.match(r"image_name\s*\|", first_line) or re.match(r"\S+\.jpg\s*\|\s*\d+\s*\|", first_line):
        return _FLICKR30K
    if re.match(r"image,\s*caption", first_line):
        return _FLICKR8K
    return _TOKENS if re.match(r"\S+#\d+\t", first_line) else None


def _of_content(content: object) -> KnownFormat | None:
    """Format of a file that is a single JSON value."""
    if isinstance(content, dict):
        images = content.get("images")
        first = images[0] if isinstance(images, list) and images else None
        if isinstance(first, dict) and "sentences" in first:
            return _READ["karpathy"]
        return _READ["coco"] if isinstance(content.get("annotations"), list) else None
    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict) or "image" not in first:
        return None
    return _READ["blip"] if "caption" in first else _ONE_LIST if "captions" in first else None


def _of_line(line: object) -> KnownFormat | None:
    """Format of a file with one JSON object per line, recognised by its first object."""
    if not isinstance(line, dict) or not _is_line(line):
        return None
    return _READ["folder"] if {"image", "captions"} <= set(line) else _IMAGEFOLDER


def _is_line(value: object) -> bool:
    return isinstance(value, dict) and ({"image", "captions"} <= set(value) or "file_name" in value)


def _parsed(text: str) -> object:
    try:
        return json_value(text)
    except ValueError:
        return None
