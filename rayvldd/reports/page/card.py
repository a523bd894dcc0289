"""A picture of a study's result for chats and slides: its numbers, pairs of its set and its recall curve."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.thumbnail import thumbnail
from rayvldd.reports.page.overview import FIRST_PAIRS, Overview
from rayvldd.reports.wrapping import wrapped
from rayvldd.storage.atomic import write_bytes_whole

SIZE = (1200, 630)
"""Pixels; the size at which chats show a picture whole."""
_MARGIN, _SIDE, _GAP = 48, 84, 4
_INK, _SOFT, _BEST = "#1c1c1c", "#595959", "#0072b2"
_WARNING = "#b84900"
_FACTS = 7
"""Facts on the card."""
_SIZES = range(20, 11, -1)
"""Sizes of their font, the largest that fits first, and of the name of the study that does not fit in one line."""
_RIGHT = 560
"""End of the left column in pixels; the pairs and the curve are beside it."""
_BOTTOM = SIZE[1] - 66
"""End of the facts in pixels; the name of the program is below."""


def draw_card(overview: Overview, distilled: DistilledSet | None, path: Path) -> None:
    """Draw the card of a study as PNG."""
    card = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(card)
    _draw_name(draw, overview.study)
    draw.text((_MARGIN, 104), overview.headline, _BEST, font=_font(84, bold=True))
    draw.text((_MARGIN, 208), "mean recall on test", _SOFT, font=_font(24))
    draw.text((_MARGIN, 240), overview.interval, _SOFT, font=_font(20))
    top = 290
    if overview.warning:
        draw.text((_MARGIN, top - 16), f"Warning: {overview.warning}", _WARNING, font=_font(22, bold=True))
        top += 32
    _draw_facts(draw, overview.facts[:_FACTS], top)
    draw.text((_MARGIN, SIZE[1] - 56), "rayvldd: vision-language dataset distillation", _SOFT, font=_font(18))
    if distilled is not None:
        _draw_pairs(card, draw, distilled)
    if overview.drawing is not None:
        encoded = BytesIO()
        overview.drawing.figure.savefig(encoded, format="png", dpi=108, facecolor="white")
        with Image.open(encoded) as curve:
            curve.thumbnail((560, 260), Image.Resampling.LANCZOS)
            card.paste(curve, (590, 340))
    encoded = BytesIO()
    card.save(encoded, "PNG", optimize=True)
    write_bytes_whole(path, encoded.getvalue())


def _draw_pairs(card: Image.Image, draw: ImageDraw.ImageDraw, distilled: DistilledSet) -> None:
    """The images of the first pairs before and after distillation, three in a row."""
    draw.text((600, 104), "pairs before and after distillation", _SOFT, font=_font(18))
    for number in range(min(FIRST_PAIRS, len(distilled))):
        left, top = 600 + (number % 3) * (2 * _SIDE + _GAP + 20), 136 + (number // 3) * (_SIDE + 16)
        for place, images in enumerate((distilled.start_images, distilled.images)):
            picture = thumbnail(images[number].numpy(), _SIDE)
            card.paste(picture, (left + place * (_SIDE + _GAP), top))


def _draw_name(draw: ImageDraw.ImageDraw, study: str) -> None:
    """The name of the study, in a smaller font and several lines if it is long."""
    width = SIZE[0] - 2 * _MARGIN
    for size in (*range(40, 20, -2), *_SIZES):
        lines = wrapped(study, width, _font(size, bold=True).getlength)
        if len(lines) * size <= 40:
            break
    for number, line in enumerate(lines):
        draw.text((_MARGIN, 36 + round(1.2 * size * number)), line, _INK, font=_font(size, bold=True))


def _draw_facts(draw: ImageDraw.ImageDraw, facts: Sequence[tuple[str, str]], top: int) -> None:
    """Facts below each other, each value in as many lines as it needs, in the largest font in which all fit."""
    for size in _SIZES:
        lefts = [_MARGIN + _font(size).getlength(f"{name}: ") for name, _ in facts]
        measure = _font(size, bold=True).getlength
        values = [wrapped(value, _RIGHT - left, measure) for (_, value), left in zip(facts, lefts, strict=True)]
        step = round(1.6 * size)
        if top + step * sum(map(len, values)) <= _BOTTOM:
            break
    for (name, _), left, lines in zip(facts, lefts, values, strict=True):
        draw.text((_MARGIN, top), f"{name}: ", _SOFT, font=_font(size))
        for line in lines:
            draw.text((left, top), line, _INK, font=_font(size, bold=True))
            top += step


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
