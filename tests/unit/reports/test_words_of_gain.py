"""Whether distillation has improved a set, in words."""

import pytest

from rayvldd.config.distillation import DistillationSettings
from rayvldd.reports.gain import sentence_of_gain, words_of_start, words_without_gain


@pytest.mark.parametrize(
    ("initialisation", "words"),
    [
        ({}, "7 random pairs"),
        ({"pairs": "k_means"}, "7 pairs by k-means"),
        ({"pairs": "herding"}, "7 pairs by herding"),
        ({"images": "noise"}, "7 starting pairs"),
    ],
)
def test_the_start_of_a_set_is_named(initialisation: dict[str, str], words: str) -> None:
    settings = DistillationSettings.model_validate({"initialisation": initialisation})
    assert words_of_start(settings, 7) == words
    begun = settings.model_copy(update={"initialise_from": "a/set"})
    assert words_of_start(begun, 7) == "7 starting pairs"


def test_the_gain_is_that_over_the_start() -> None:
    gain = sentence_of_gain(DistillationSettings(), 7, 12.34, 10.0)
    assert gain.startswith("7 distilled pairs have +2.3 points of mean recall over the 7 random pairs that they began")


def test_a_set_that_is_its_start_is_warned_of() -> None:
    assert words_without_gain(20, 7) == ""
    assert "so the set is its 7 starting pairs" in words_without_gain(0, 7)
