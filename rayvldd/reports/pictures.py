"""Pictures of a distilled set, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.thumbnail import thumbnail
from rayvldd.reports.nearest import SimilarCaption
from rayvldd.storage.atomic import write_bytes_whole

MAX_PAIRS = 100
"""Maximum number of pairs in a picture; of a larger set the first ones are shown."""

_SIDE, _GAP, _MARGIN = 112, 4, 20
"""Pixels: side of an image, gap between the two images of a pair, and margin around a pair."""
_CELL = 2 * _SIDE + _GAP
_LINE, _LINES = 14, 2
"""Height of a line of text in pixels, and maximum number of lines of a caption."""
_HEADER = 64
_MAX_BYTES = 1_500_000
_GREY, _BLACK = "#6b6b6b", "#111111"


@dataclass(frozen=True)
class _Cell:
    before: np.ndarray
    after: np.ndarray
    start_caption: str
    nearest_caption: str


def draw_before_after(
    distilled: DistilledSet, nearest: Sequence[SimilarCaption], path: Path, *, max_pairs: int = MAX_PAIRS
) -> None:
    """Draw the image of each pair before and after distillation, with its captions below.

    The black caption is the training caption nearest to the distilled embedding, the grey one is the initial caption if
    it differs. The suffix of ``path`` determines the format. Distilled pixels resemble noise and compress badly, so
    JPEG is saved with the best quality that stays below 1.5 MB.
    """
    number = min(len(distilled), max_pairs)
    columns = min(5, number)
    rows = -(-number // columns)
    row_height = _SIDE + 6 + 2 * _LINES * _LINE + _MARGIN
    size = (columns * (_CELL + _MARGIN) + _MARGIN, _HEADER + rows * row_height)
    picture = Image.new("RGB", size, "white")
    _draw_header(picture, number, len(distilled))
    for index in range(number):
        left = _MARGIN + (index % columns) * (_CELL + _MARGIN)
        top = _HEADER + (index // columns) * row_height
        start = distilled.start_captions[index]
        cell = _Cell(
            distilled.start_images[index].numpy(), distilled.images[index].numpy(), start, nearest[index].caption
        )
        _draw_cell(picture, cell, left, top)
    _save(picture, path)


def _save(picture: Image.Image, path: Path) -> None:
    if path.suffix not in (".jpg", ".jpeg"):
        picture.save(path)
        return
    for quality in (92, 85, 75, 65, 55):
        encoded = BytesIO()
        picture.save(encoded, "JPEG", quality=quality, optimize=True)
        if encoded.tell() < _MAX_BYTES:
            break
    write_bytes_whole(path, encoded.getvalue())


def _draw_header(picture: Image.Image, shown: int, total: int) -> None:
    draw = ImageDraw.Draw(picture)
    count = f"{total} distilled pairs" if shown == total else f"The first {shown} of {total} distilled pairs"
    draw.text((_MARGIN, 12), count, _BLACK, font=_font(18, bold=True))
    meaning = "left: start, right: distilled; black: nearest training caption, grey: the start's where it was another"
    for line in _wrapped(meaning, picture.width - 2 * _MARGIN, 1):
        draw.text((_MARGIN, 38), line, _GREY, font=_font(11))


def _draw_cell(picture: Image.Image, cell: _Cell, left: int, top: int) -> None:
    for column, pixels in enumerate((cell.before, cell.after)):
        picture.paste(thumbnail(pixels, _SIDE), (left + column * (_SIDE + _GAP), top))
    draw, y = ImageDraw.Draw(picture), top + _SIDE + 4
    captions = [(cell.start_caption or "(noise)", _GREY), (cell.nearest_caption, _BLACK)]
    for caption, colour in captions[cell.start_caption == cell.nearest_caption :]:
        for line in _wrapped(caption, _CELL, _LINES):
            draw.text((left, y), line, colour, font=_font(11))
            y += _LINE


def _wrapped(text: str, width: int, max_lines: int) -> list[str]:
    """Wrap a text to lines of at most ``width`` pixels, with an ellipsis after ``max_lines``."""
    font, lines = _font(11), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    kept, cut = lines[:max_lines], len(lines) > max_lines
    return [*kept[:-1], _shortened(kept[-1], width, cut)]


def _shortened(line: str, width: int, cut: bool) -> str:
    font = _font(11)
    if not cut and font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


@lru_cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
