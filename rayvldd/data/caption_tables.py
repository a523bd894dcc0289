"""Tables of captions (CSV and its relatives), converted to the JSON lines that ``data.source: folder`` reads.

Read are the files that people have: one row for each caption, with the columns of Flickr8k (``image,caption``), of
Flickr30k (``image_name| comment_number| comment``) or similar names, and an optional column ``split``.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rayvldd.data.annotations import SPLITS
from rayvldd.errors import DataError, Fault
from rayvldd.storage.atomic import write_text_whole
from rayvldd.user_paths import is_file

IMAGE_COLUMNS = ("image", "image_name", "image_id", "file_name", "filename", "file", "filepath", "path")
"""Names of the column with the image files, in lower case."""
CAPTION_COLUMNS = ("caption", "comment", "text", "sentence", "description")
"""Names of the column with the captions, in lower case."""
_DELIMITERS = ",;|\t"
_FEWEST_IMAGES = 10
_HELD_OUT = 0.1
"""Share of the images of each of validation and test, where a table has no splits."""


def convert_caption_table(table: Path, images: Path, out: Path, seed: int = 0) -> Mapping[str, int]:
    """Write the captions of a table as JSON lines, one image each.

    Without a column ``split``, a tenth of the images is drawn for validation and as many for test.

    Args:
        table: The file with one row for each caption.
        images: Folder of the image files.
        out: The file to write, whole or not at all.
        seed: Of the drawn splits.

    Returns:
        Number of images by split.

    Raises:
        DataError: listing rows without an image or a caption, images with two splits, unknown splits and files that
            are not in the folder; or when there are fewer than ten images to split.
    """
    captions, splits = _read(table, images)
    chosen = splits or _drawn_splits(sorted(captions), table, seed)
    lines = (
        json.dumps({"image": image, "captions": texts, "split": chosen[image]}, ensure_ascii=False)
        for image, texts in captions.items()
    )
    write_text_whole(out, "".join(f"{line}\n" for line in lines))
    return {split: sum(of_image == split for of_image in chosen.values()) for split in SPLITS}


class _Row(NamedTuple):
    line: int
    """Number of the row's last line in the file."""
    image: str
    caption: str
    split: str | None
    """None where the table has no column of splits."""


def _read(table: Path, images: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The captions of each image, and its split where the table has a column of splits."""
    captions, splits, faults = dict[str, list[str]](), dict[str, str](), list[Fault]()
    for row in _rows(table):
        where = f"{table} line {row.line}"
        if not row.image or not row.caption:
            faults.append(Fault(where, f"has no {'caption' if row.image else 'image'}", "both in every row"))
            continue
        if row.image not in captions and not is_file(images / row.image):
            faults.append(Fault(where, f"no such image file: {images / row.image}", "--images with the right folder"))
        captions.setdefault(row.image, []).append(row.caption)
        if row.split is None:
            continue
        if row.split not in SPLITS:
            faults.append(Fault(where, f"unknown split {row.split!r}", ", ".join(SPLITS)))
        elif splits.setdefault(row.image, row.split) != row.split:
            problem = f"{row.image} is in {row.split}, and in {splits[row.image]} before"
            faults.append(Fault(where, problem, "one split for an image"))
    if not captions and not faults:
        faults.append(Fault(str(table), "has no rows below its header", "one row for each caption"))
    if faults:
        raise DataError(faults, next_command="correct the table, then the same command again")
    return captions, splits


def _rows(table: Path) -> list[_Row]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fault = Fault(str(table), f"cannot be read: {error}", "a text file in UTF-8")
        raise DataError([fault], next_command="rayvldd init --help") from None
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names = [name.strip().lower() for name in next(reader, [])]
    image, caption, split = (
        next((names.index(name) for name in known if name in names), None)
        for known in (IMAGE_COLUMNS, CAPTION_COLUMNS, ("split",))
    )
    if image is None or caption is None:
        allowed = f"a header with {' or '.join(IMAGE_COLUMNS)}, and {' or '.join(CAPTION_COLUMNS)}"
        fault = Fault(f"{table} line 1", f"has the columns {', '.join(names) or 'none'}", allowed)
        raise DataError([fault], next_command="rayvldd init --help")

    def cell(row: Sequence[str], position: int) -> str:
        return row[position].strip() if position < len(row) else ""

    return [
        _Row(reader.line_num, cell(row, image), cell(row, caption), None if split is None else cell(row, split))
        for row in reader
        if row
    ]


def _drawn_splits(images: Sequence[str], table: Path, seed: int) -> dict[str, str]:
    if len(images) < _FEWEST_IMAGES:
        allowed = f"at least {_FEWEST_IMAGES} images, or a column `split` with train, val and test"
        raise DataError([Fault(str(table), f"has {len(images)} images to split", allowed)])
    shuffled = [images[index] for index in np.random.default_rng(seed).permutation(len(images))]
    held_out = max(1, round(_HELD_OUT * len(shuffled)))
    names = ["val"] * held_out + ["test"] * held_out
    return dict(zip(shuffled, names + ["train"] * (len(shuffled) - len(names)), strict=True))
