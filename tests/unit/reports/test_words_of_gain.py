"""Whether distillation has improved a set, in words."""

import pytest
from helpers.studies import RATES_TO_TRY

from rayvldd.config.distillation import DistillationSettings
from rayvldd.reports.gain import (
    commands_to_try,
    next_after_divergence,
    sentence_of_gain,
    short_words_without_gain,
    words_of_start,
    words_without_gain,
)


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
    assert words_without_gain(20, 7) == short_words_without_gain(20) == ""
    assert short_words_without_gain(0) == "the set is its starting pairs"
    assert "so the set is its 7 starting pairs" in words_without_gain(0, 7)


RATES = RATES_TO_TRY.model_copy(
    update={"point": {"distillation.num_pairs": 6, "distillation.initialisation.images": None}}
)


@pytest.mark.parametrize(
    ("lowest", "shows", "first"),
    [
        (2.57, "The recall of trial_000 fell from 13.97 to 2.57, as with rates that are too high", "3 "),
        (None, "trial_000 ended before its second evaluation, as with rates that are too high", "3 "),
        (13.9, "The recall of trial_000 stayed near its start, as with rates that are too low", "300 "),
    ],
)
def test_the_warning_has_the_rates_to_try(lowest: float | None, shows: str, first: str) -> None:
    words = words_without_gain(0, 7, RATES.model_copy(update={"lowest_recall": lowest}))
    assert f"{shows}: try distillation.lr_image={first}and distillation.lr_text=" in words


def test_the_commands_distil_the_point_of_the_run_at_the_rates_to_try() -> None:
    overrides = ["seed=3", "distillation.num_pairs=50", "distillation.lr_text=9"]
    lower, higher = commands_to_try(["rayvldd", "distill", "a b.yaml"], overrides, RATES)
    point = "--set distillation.num_pairs=6 --set distillation.initialisation.images=null"
    for command, rates in ((lower, (3, 10)), (higher, (300, 1000))):
        of_rates = f"--set distillation.lr_image={rates[0]} --set distillation.lr_text={rates[1]}"
        assert command == f"rayvldd distill 'a b.yaml' --set seed=3 {point} {of_rates}"


def test_after_a_divergence_lower_rates_follow() -> None:
    lower = "--set distillation.lr_image=3 --set distillation.lr_text=10"
    stayed = RATES.model_copy(update={"lowest_recall": 13.9})
    assert next_after_divergence(stayed, "rayvldd distill a.yaml") == f"rayvldd distill STUDY.yaml {lower}"
    assert next_after_divergence(stayed, "rayvldd scaling a.yaml --pairs 5") == f"the same command with {lower}"
