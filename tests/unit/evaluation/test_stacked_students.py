"""Students in one pass: the same as one after another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tasks import load

from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation.students import Pairs, train_student, train_students_stacked
from rayvldd.testing.toy import PROTOCOLS

SEEDS = [3, 4, 5]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("learned", [False, True])
def test_stacked_students_are_those_trained_one_after_another(
    tiny_study: Study, tiny_cache: Path, protocol: str, learned: bool
) -> None:
    changes: dict[str, Any] = {"evaluation.epochs": 3, "evaluation.batch_size": 4, **PROTOCOLS[protocol]}
    task = load(tiny_study, tiny_cache, **changes)
    task.model.double()
    real = choose_coreset(task, "random", 9, 1).pairs(task, 0.1)  # the last of 9 pairs in batches of 4 is left out
    similarity = torch.eye(9, dtype=torch.float64) + 0.1 if learned else None
    loss = "extended_info_nce" if learned else "info_nce"
    pairs = Pairs(real.images.double(), real.texts.double(), 0.1, 0.2, similarity, loss)
    with torch.no_grad():
        frozen_output = task.model.frozen_part(pairs.images)

    stacked = train_students_stacked(task, pairs, frozen_output, task.study.evaluation, SEEDS)

    for seed, student in zip(SEEDS, stacked, strict=True):
        expected = train_student(task, pairs, frozen_output, task.study.evaluation, seed)
        for side, other in zip(student, expected, strict=True):
            assert (side - other).norm() <= 1e-12 * other.norm()
    assert not torch.equal(stacked[0].image, stacked[1].image)


def test_students_with_dropout_or_a_whole_encoder_are_not_stacked(tiny_study: Study) -> None:
    assert tiny_study.model.can_be_stacked
    assert not tiny_study.at({"model.dropout": 0.1}).model.can_be_stacked
    assert not tiny_study.at(dict(PROTOCOLS["full_image_encoder"])).model.can_be_stacked
