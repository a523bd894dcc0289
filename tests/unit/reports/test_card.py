"""The card of a study: every text is whole and in its place."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from rayvldd.records.difference import Difference
from rayvldd.reports.page.card import SIZE, draw_card
from rayvldd.reports.page.overview import Overview

CURVE, FOOTER = 590, SIZE[1] - 56
"""Left edge of the curve, and top of the last line, in pixels."""
WIDEST = Difference(mean=-100.0, interval=(-100.0, 100.0)).words
MACHINE = "8 machines, 512 CPUs (AMD EPYC 7B13 64-Core Processor), 64 GPUs (NVIDIA-H200-SXM5-141GB)"


def overview(study: str, warning: str, facts: list[tuple[str, str]]) -> Overview:
    return Overview(study, "100.0 %", "95 % interval 100.0 to 100.0", warning, facts, [], None)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, float, float, float]]]:
    """The texts that are drawn, each with its box in pixels: left, top, right and bottom."""
    found = []
    draw_text = ImageDraw.ImageDraw.text

    def recorded(self: ImageDraw.ImageDraw, place: Any, text: str, *others: Any, **more: Any) -> None:
        found.append((text, self.textbbox(place, text, font=more["font"])))
        draw_text(self, place, text, *others, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    return found


@pytest.mark.parametrize("study", ["quickstart", "a_study_with_quite_a_long_name_for_tables", "x" * 255])
@pytest.mark.parametrize("warning", ["", "the set is its starting pairs"])
@pytest.mark.parametrize("machine", ["2 CPUs", MACHINE])
def test_no_text_of_the_card_is_cut(
    study: str, warning: str, machine: str, drawn: list[tuple[str, tuple[float, float, float, float]]], tmp_path: Path
) -> None:
    facts = [
        ("share of the full data", "100 % of 100.0"),
        ("as many random pairs", "100.0 %"),
        ("over random pairs", WIDEST),
        ("pairs", "100,000 of 113,000"),
        ("trials", "1000 (500 stopped, 100 failed)"),
        ("distillations with new seeds", "10 of 30 failed"),
        ("machine", machine),
    ]
    draw_card(overview(study, warning, facts), None, tmp_path / "card.png")
    everything = " ".join(text for text, _ in drawn)
    assert study in everything.replace(" ", "")
    for words in (warning, *(f"{name}:  {value}" for name, value in facts)):
        assert words in everything
    of_study = [box for text, box in drawn if text in study]
    assert all(right <= SIZE[0] - 48 and bottom <= 104 for _, _, right, bottom in of_study)
    *others, (last, (_, top, _, _)) = (one for one in drawn if one[1] not in of_study)
    assert last.startswith("rayvldd") and top >= FOOTER
    assert not [text for text, (_, _, right, bottom) in others if right >= CURVE or bottom >= top]
    boxes = [box for _, box in others]
    overlapping = [
        (one, other)
        for place, one in enumerate(boxes)
        for other in boxes[:place]
        if one[0] + 1 < other[2] and other[0] + 1 < one[2] and one[1] < other[3] and other[1] < one[3]
    ]
    assert not overlapping
    with Image.open(tmp_path / "card.png") as card:
        assert card.size == SIZE


def test_usual_facts_are_in_the_large_font(
    drawn: list[tuple[str, tuple[float, float, float, float]]], tmp_path: Path
) -> None:
    facts = [("over random pairs", "+42.3 points (95 % interval 41.0 to 43.6)"), ("pairs", "100 of 1,600")]
    draw_card(overview("quickstart", "", facts), None, tmp_path / "card.png")
    texts = [text for text, _ in drawn]
    assert texts[-5:-3] == ["+42.3 points (95 % interval", "41.0 to 43.6)"], "two lines, and no smaller font"
