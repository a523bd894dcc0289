"""Tables of captions: ``data.source: table``, and their conversion to the JSON lines of ``data.source: folder``.

Read are the files that people have: one row for each caption, with the columns of Flickr8k (``image,caption``), of
Flickr30k (``image_name| comment_number| comment``, or one row for each image with a list ``raw``) or similar names, and
an optional column ``split``; Flickr's token files (``NAME.jpg#0``, a tab, the caption); and JSON lines with the same
names as keys, as in the ``metadata.jsonl`` of a Hugging Face image folder.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rayvldd.config.settings import TableData
from rayvldd.data.drawn_splits import FEWEST_IMAGES, drawn_splits
from rayvldd.data.record_reader import SPLITS, RecordReader, read_text, shown
from rayvldd.errors import DataError, Fault
from rayvldd.storage.atomic import write_text_whole
from rayvldd.storage.json_files import json_value
from rayvldd.user_paths import is_file, user_path

IMAGE_COLUMNS = ("image", "image_name", "image_id", "file_name", "filename", "file", "filepath", "path")
"""Names of the column with the image files, in lower case."""
CAPTION_COLUMNS = ("caption", "comment", "text", "sentence", "description", "captions", "raw")
"""Names of the column with the captions, in lower case."""
_DELIMITERS = ",;|\t"
_HELD_OUT = 0.1
"""Share of the images of each of validation and test, where a converted table has no splits."""
_TOKEN_LINE = re.compile(r"(\S+)#\d+\t(.*)")
_NUMBER_AND_CAPTION = re.compile(r"\d+\s+(\S.*)")
"""Second cell of the one row of Kaggle's Flickr30k table in which a bar is missing."""


def read_table(settings: TableData, reader: RecordReader) -> None:
    """Add the images of a table to the records of a dataset."""
    path = reader.root / user_path(settings.annotations)
    text = read_text(path, "data.annotations", reader)
    if text is None or reader.is_foreign(path, text, "table"):
        return
    try:
        rows = _rows(text, path)
    except DataError as error:
        reader.faults += error.faults
        return
    grouped: dict[str, tuple[int, list[object], str | None]] = {}
    for row in rows:
        _, captions, split = grouped.setdefault(row.image, (row.line, [], row.split))
        captions += row.captions
        if row.split != split:
            problem = f"{row.image} is in {row.split}, and in {split} before"
            reader.fault(f"{path} line {row.line}", problem, "one split for an image")
    if not any(row.split is not None for row in rows):
        if len(grouped) < FEWEST_IMAGES:
            allowed = f"at least {FEWEST_IMAGES} images, or a column `split` with {', '.join(SPLITS)}"
            reader.fault(str(path), f"has {len(grouped)} images to split", allowed)
            return
        drawn = drawn_splits([*grouped], settings.held_out, settings.split_seed)
        grouped = {image: (line, captions, drawn[image]) for image, (line, captions, _) in grouped.items()}
    for image, (line, captions, split) in grouped.items():
        reader.add(f"{path} line {line}", image, captions, split)


def convert_caption_table(table: Path, images: Path, out: Path, seed: int = 0) -> Mapping[str, int]:
    """Write the captions of a table as JSON lines, one image each.

    Without a column ``split``, a tenth of the images is drawn for validation and as many for test.

    Args:
        table: The file with one row for each caption.
        images: Folder of the image files.
        out: The file to write, whole or not at all. It may be there already from the same table.
        seed: Of the drawn splits.

    Returns:
        Number of images by split.

    Raises:
        DataError: listing rows without an image or a caption, images with two splits, unknown splits and files that
            are not in the folder; or when there are fewer than ten images to split, or another file is in the place.
    """
    captions, splits = _read(table, images)
    if not splits and len(captions) < FEWEST_IMAGES:
        allowed = f"at least {FEWEST_IMAGES} images, or a column `split` with {', '.join(SPLITS)}"
        raise DataError([Fault(str(table), f"has {len(captions)} images to split", allowed)])
    chosen: Mapping[str, str] = splits or drawn_splits([*captions], _HELD_OUT, seed)
    lines = (
        json.dumps({"image": image, "captions": texts, "split": chosen[image]}, ensure_ascii=False)
        for image, texts in captions.items()
    )
    text = "".join(f"{line}\n" for line in lines)
    if not out.exists():
        write_text_whole(out, text)
    elif not out.is_file() or out.read_bytes() != text.encode():
        fault = Fault(str(out), "is there already, and has other captions than the table", "a file that does not exist")
        raise DataError([fault], next_command="the same command with another name, or remove the file")
    return {split: sum(of_image == split for of_image in chosen.values()) for split in SPLITS}


class _Row(NamedTuple):
    line: int
    """Number of the row's last line in the file."""
    image: str
    captions: list[object]
    split: str | None
    """None where the table has no column of splits."""


def _read(table: Path, images: Path) -> tuple[dict[str, list[object]], dict[str, str]]:
    """The captions of each image, and its split where the table has a column of splits."""
    captions, splits, faults = dict[str, list[object]](), dict[str, str](), list[Fault]()
    for row in _rows(_text_of(table), table):
        where = f"{table} line {row.line}"
        if not row.image or not all(isinstance(one, str) and one for one in row.captions) or not row.captions:
            faults.append(Fault(where, f"has no {'caption' if row.image else 'image'}", "both in every row"))
            continue
        if row.image not in captions and not is_file(images / row.image):
            faults.append(Fault(where, f"no such image file: {images / row.image}", "--images with the right folder"))
        captions.setdefault(row.image, []).extend(row.captions)
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


def _text_of(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fault = Fault(str(table), f"cannot be read: {error}", "a text file in UTF-8")
        raise DataError([fault], next_command="rayvldd init --help") from None


def _rows(text: str, table: Path) -> list[_Row]:
    """The rows of a table.

    Raises:
        DataError: if the columns of images and captions cannot be identified, or a line is not JSON.
    """
    start = text.lstrip()
    if start.startswith("{"):
        return _json_rows(text, table)
    if _TOKEN_LINE.match(start):
        found = (
            (number, _TOKEN_LINE.match(line)) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
        )
        return [_Row(number, one[1] if one else "", [one[2].strip()] if one else [], None) for number, one in found]
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    # Quotation marks are text between bars, as in Flickr30k's table.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, quoting=quoting)
    names = [name.strip().lower() for name in next(reader, [])]
    image, caption, split = _positions(names, f"{table} line 1")

    def cell(row: Sequence[str], position: int) -> str:
        return row[position].strip() if position < len(row) else ""

    def captions(row: Sequence[str]) -> list[object]:
        if len(row) == caption == 2 and (found := _NUMBER_AND_CAPTION.fullmatch(row[1].strip())):
            return [found[1]]
        return _listed(cell(row, caption)) if names[caption] in ("raw", "captions") else [cell(row, caption)]

    return [
        _Row(reader.line_num, cell(row, image), captions(row), None if split is None else cell(row, split))
        for row in reader
        if row
    ]


def _json_rows(text: str, table: Path) -> list[_Row]:
    rows, faults = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{table} line {number}"
        try:
            entry = json_value(line)
            assert isinstance(entry, dict)
        except (ValueError, AssertionError):
            faults.append(Fault(where, f"is {shown(line)}", 'a JSON object: {"file_name": "NAME.jpg", "text": "..."}'))
            continue
        names = [*entry]
        image, caption, split = _positions([name.lower() for name in names], where)
        value = entry[names[caption]]
        captions: list[object] = [*value] if isinstance(value, list) else [value]
        rows.append(
            _Row(number, str(entry[names[image]]), captions, None if split is None else str(entry[names[split]]))
        )
    if faults:
        raise DataError(faults, next_command="rayvldd init --help")
    return rows


def _positions(names: Sequence[str], where: str) -> tuple[int, int, int | None]:
    """Positions of the columns of images, captions and splits."""
    image, caption, split = (
        next((names.index(name) for name in known if name in names), None)
        for known in (IMAGE_COLUMNS, CAPTION_COLUMNS, ("split",))
    )
    if image is None or caption is None:
        allowed = f"a header with {' or '.join(IMAGE_COLUMNS)}, and {' or '.join(CAPTION_COLUMNS)}"
        fault = Fault(where, f"has the columns {', '.join(names) or 'none'}", allowed)
        raise DataError([fault], next_command="rayvldd init --help")
    return image, caption, split


def _listed(cell: str) -> list[object]:
    """The captions of a cell with a JSON list; any other cell is one caption."""
    try:
        value = json_value(cell)
    except ValueError:
        return [cell]
    return [*value] if isinstance(value, list) else [cell]
