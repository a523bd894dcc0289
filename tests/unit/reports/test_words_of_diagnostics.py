"""Diagnostics of a set in words."""

import pytest

from rayvldd.reports.diagnostics import words_of_diagnostics

MEASURED = {
    "concentration_image": 0.414,
    "concentration_text": 0.3,
    "nearest_image_cosine": 0.917,
    "val_mean_recall": 9.0,
}


def test_a_diagnostic_without_a_value_is_left_out() -> None:
    assert words_of_diagnostics({"val_mean_recall": 9.0}) == ""


@pytest.mark.parametrize(
    ("left_out", "has", "has_not"),
    [
        ([], ["0.41 of images and 0.30 of texts", "cosine 0.92 to the nearest real image"], []),
        (["nearest_image_cosine"], ["0.41 of images and 0.30 of texts"], ["nearest real"]),
        (list(MEASURED), [], ["concentration"]),
    ],
)
def test_what_was_measured_is_said(left_out: list[str], has: list[str], has_not: list[str]) -> None:
    said = words_of_diagnostics({name: value for name, value in MEASURED.items() if name not in left_out})
    assert all(text in said for text in has) and not any(text in said for text in has_not)
