"""A picture of a study's result for chats and slides: its numbers, pairs of its set and its recall curve."""

from io import BytesIO
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.thumbnail import thumbnail
from rayvldd.reports.page.overview import FIRST_PAIRS, Overview
from rayvldd.storage.atomic import write_bytes_whole

SIZE = (1200, 630)
"""Pixels; the size at which chats show a picture whole."""
_MARGIN, _SIDE, _GAP = 48, 84, 4
_INK, _SOFT, _BEST = "#1c1c1c", "#595959", "#0072b2"
_WARNING = "#b84900"
_FACTS = 7
"""Facts that fit on the card."""


def draw_card(overview: Overview, distilled: DistilledSet | None, path: Path) -> None:
    """Draw the card of a study as PNG."""
    card = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(card)
    draw.text((_MARGIN, 36), _fitting(overview.study, 1100, 40), _INK, font=_font(40, bold=True))
    draw.text((_MARGIN, 104), overview.headline, _BEST, font=_font(84, bold=True))
    draw.text((_MARGIN, 208), "mean recall on test", _SOFT, font=_font(24))
    draw.text((_MARGIN, 240), overview.interval, _SOFT, font=_font(20))
    top = 290
    if overview.warning:
        draw.text((_MARGIN, top - 16), f"Warning: {overview.warning}", _WARNING, font=_font(22, bold=True))
        top += 32
    for name, value in overview.facts[:_FACTS]:
        draw.text((_MARGIN, top), f"{name}: ", _SOFT, font=_font(20))
        left = _MARGIN + int(_font(20).getlength(f"{name}: "))
        draw.text((left, top), _fitting(value, 560 - left, 20), _INK, font=_font(20, bold=True))
        top += 32
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


def _fitting(text: str, width: int, size: int) -> str:
    """The text, shortened with an ellipsis to a width in pixels."""
    font = _font(size, bold=True)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
