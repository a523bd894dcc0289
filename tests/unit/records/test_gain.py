"""Rates to try after a search in which nothing rose above its start."""

from pathlib import Path

import pytest
from helpers.studies import TINY_STUDY

from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.records.gain import rates_to_try
from rayvldd.records.trial import Evaluation, Trial


def trial(number: int, lr_image: float, recalls: list[float]) -> Trial:
    evaluations = [Evaluation(20 * place, {VAL_MEAN_RECALL: recall}) for place, recall in enumerate(recalls)]
    point = {"distillation.lr_image": lr_image, "distillation.num_pairs": 6}
    return Trial(f"trial_{number:03d}", number, number, {**point}, Path("none"), "finished", evaluations=evaluations)


STUDY = Study.model_validate({**TINY_STUDY, "distillation": {**TINY_STUDY["distillation"], "lr_text": 40.0}})


def test_the_rates_are_around_those_of_the_trial_that_came_nearest_to_its_start() -> None:
    tried = [trial(0, 300.0, [14.0, 2.0, 3.0]), trial(1, 30.0, [14.0, 2.57, 8.98]), trial(2, 500.0, [14.5])]
    rates = rates_to_try(STUDY, tried)
    assert rates is not None and rates.run == "trial_001"
    assert rates.lower == {"distillation.lr_image": 3.0, "distillation.lr_text": 4.0}
    assert rates.higher == {"distillation.lr_image": 300.0, "distillation.lr_text": 400.0}
    assert rates.point == {"distillation.num_pairs": 6}
    assert rates.fell and rates.in_order == (rates.lower, rates.higher)
    assert rates.numbers == {"try_lr_image": 3.0, "try_lr_text": 4.0}


@pytest.mark.parametrize(
    ("recalls", "fell"),
    [
        ([14.0, 13.9, 13.2], False),  # within the noise of students: nothing moves
        ([14.0, 12.5, 13.9], True),
        ([14.0], True),  # it diverged before the second evaluation
    ],
)
def test_rates_are_too_high_where_recall_falls_and_too_low_where_it_stays(recalls: list[float], fell: bool) -> None:
    rates = rates_to_try(STUDY, [trial(0, 30.0, recalls)])
    assert rates is not None and rates.fell == fell
    assert rates.in_order[0] == (rates.lower if fell else rates.higher)


def test_without_an_evaluation_there_is_nothing_to_say() -> None:
    assert rates_to_try(STUDY, [trial(0, 30.0, [])]) is None


def test_where_starts_differ_a_trial_that_rose_says_nothing_about_rates() -> None:
    rose, best_start = trial(0, 30.0, [10.0, 10.5]), trial(1, 300.0, [12.0, 11.0])
    assert rates_to_try(STUDY, [rose, best_start]) is None
    assert rates_to_try(STUDY, [best_start]) is not None
