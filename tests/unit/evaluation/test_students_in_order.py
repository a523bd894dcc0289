"""Students of sets in order, against a loop that is written out here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load
from torch import Tensor

from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation import students as module
from rayvldd.evaluation.scoring import score
from rayvldd.evaluation.students import Pairs, PairsInOrder, TrainingPairs, evaluate_pairs, train_students
from rayvldd.models.parameters import Parameters
from rayvldd.randomness import seeded
from rayvldd.testing.toy import PROTOCOLS

CHANGES: dict[str, Any] = {"evaluation.epochs": 3, "evaluation.batch_size": 4}
RATES = ((0.05, 0.2), (0.1, 0.03))
"""Rates of image and text side on two sets."""


def two_sets(task: StudyTask) -> tuple[Pairs, Pairs]:
    """Nine pairs with a learned similarity, of which a batch is left out, and six without."""
    one, other = (choose_coreset(task, "random", size, seed).pairs(task, 0.1) for seed, size in enumerate((9, 6)))
    similarity = torch.eye(9) + 0.1 * torch.rand(9, 9, generator=torch.Generator().manual_seed(1))
    return (
        Pairs(one.images, one.texts, *RATES[0], similarity, "extended_info_nce"),
        Pairs(other.images, other.texts, *RATES[1]),
    )


def trained(task: StudyTask, pairs: TrainingPairs, seed: int = 3) -> Parameters:
    (student,) = train_students(task, pairs, task.study.evaluation, [seed])
    return student


def naive(task: StudyTask, parts: list[Pairs], seed: int) -> Parameters:
    """SGD on each part in turn: the parameters stay, the momentum and the decay begin anew."""
    evaluation, model = task.study.evaluation, task.model
    sides = [side.clone().requires_grad_() for side in model.initial_parameters(seed)]
    with seeded(seed):
        for part in parts:
            optimiser = torch.optim.SGD(
                [
                    {"params": [side], "lr": rate}
                    for side, rate in zip(sides, (part.lr_image, part.lr_text), strict=True)
                ],
                momentum=evaluation.momentum,
                weight_decay=evaluation.weight_decay,
            )
            with torch.no_grad():
                frozen_output = model.frozen_part(part.images)
            per_epoch = len(part.texts) // 4 + (len(part.texts) % 4 > 1)
            steps = evaluation.epochs * per_epoch if evaluation.learning_rate_decay == "cosine" else None
            step = 0
            for _ in range(evaluation.epochs):
                order = torch.randperm(len(part.texts))
                for chosen in [order[start : start + 4] for start in range(0, per_epoch * 4, 4)]:
                    target = None if part.similarity is None else part.similarity[chosen][:, chosen]
                    model.train()
                    loss = model.loss(
                        Parameters(*sides),
                        frozen_output[chosen],
                        part.texts[chosen],
                        similarity=target,
                        pair_loss=part.pair_loss,
                    )
                    model.train(False)
                    factor = decayed(step, steps)
                    for group, rate in zip(optimiser.param_groups, (part.lr_image, part.lr_text), strict=True):
                        group["lr"] = factor * rate
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    step += 1
    return Parameters(*(side.detach() for side in sides))


def decayed(step: int, steps: int | None) -> float:
    """The cosine decay; 1 without one."""
    return 1.0 if steps is None else float(1 + np.cos(np.pi * step / steps)) / 2


def equal(one: Parameters, other: Parameters) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_students_in_order_are_those_of_a_naive_loop_bit_for_bit(
    tiny_study: Study, tiny_cache: Path, protocol: str
) -> None:
    task = load(tiny_study, tiny_cache, **{**CHANGES, **PROTOCOLS[protocol], "model.dropout": 0.2})
    first, second = two_sets(task)
    assert equal(trained(task, PairsInOrder([first, second])), naive(task, [first, second], 3))


def test_the_decay_of_the_rates_begins_anew_on_each_set(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **CHANGES, **{"evaluation.learning_rate_decay": "cosine"})
    parts = in_double(task)
    for side, expected in zip(trained(task, PairsInOrder(parts)), naive(task, parts, 3), strict=True):
        torch.testing.assert_close(side, expected, rtol=1e-12, atol=1e-12)


def test_the_order_matters_and_each_set_has_its_own_rates(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **CHANGES)
    first, second = two_sets(task)
    forward = trained(task, PairsInOrder([first, second]))
    assert not equal(forward, trained(task, PairsInOrder([second, first])))
    assert not equal(forward, trained(task, PairsInOrder([first, replace(second, lr_text=first.lr_text)])))
    scores = evaluate_pairs(task, PairsInOrder([first, second]), task.val, task.study.evaluation, [3])
    assert scores == [score(task, forward, task.val)]
    assert PairsInOrder([first, second]).num_pairs == 15


def test_a_later_set_without_rates_leaves_the_student_of_the_first(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **CHANGES)
    first, second = two_sets(task)
    alone = trained(task, first)
    assert equal(alone, trained(task, PairsInOrder([first])))
    assert equal(alone, trained(task, PairsInOrder([first, replace(second, lr_image=0.0, lr_text=0.0)])))
    assert not equal(alone, trained(task, PairsInOrder([first, first]))), "the epochs of both are trained"


@pytest.mark.parametrize("protocol", ["heads_only", "lora"])
def test_students_in_one_pass_are_those_one_after_another(tiny_study: Study, tiny_cache: Path, protocol: str) -> None:
    task = load(tiny_study, tiny_cache, **CHANGES, **PROTOCOLS[protocol])
    parts = in_double(task)
    with torch.no_grad():
        frozen = [(part, task.model.frozen_part(part.images)) for part in parts]
    stacked = module._train_stacked_in_order(task, frozen, task.study.evaluation, [3, 4])
    for seed, student in zip((3, 4), stacked, strict=True):
        for side, expected in zip(student, trained(task, PairsInOrder(parts), seed), strict=True):
            assert (side - expected).norm() <= 1e-12 * expected.norm()


def in_double(task: StudyTask) -> list[Pairs]:
    """Both sets in float64, as the model then is, where a comparison does not depend on the processor's rounding."""
    task.model.double()
    return [
        replace(part, images=part.images.double(), texts=part.texts.double(), similarity=as_double(part.similarity))
        for part in two_sets(task)
    ]


def as_double(similarity: Tensor | None) -> Tensor | None:
    return None if similarity is None else similarity.double()
