"""Experts that share their start, and a model merged from two of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import load

import rayvldd.distillation.expert_fit
from rayvldd.config.study import Study
from rayvldd.distillation.expert_fit import ExpertFit
from rayvldd.errors import ConfigError
from rayvldd.experts.merging import merged
from rayvldd.experts.movement import Layouts
from rayvldd.experts.recipe import expert_training
from rayvldd.experts.training import train_expert
from rayvldd.models.parameters import ParameterLayout, Parameters

TWO = ParameterLayout(("a", "b", "c"), ((2,), (3,), (1,)))
MERGED: dict[str, Any] = {
    "experts.shared_start": True,
    "distillation.method": "expert_fit",
    "distillation.expert_fit.max_epoch": 2,
    "distillation.expert_fit.teacher": "merged",
}


def test_each_tensor_is_merged_by_its_own_angle() -> None:
    start = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 5.0])
    first = start + torch.tensor([3.0, 0.0, 1.0, 2.0, 0.0, 0.0])
    second = start + torch.tensor([3.0, 3.0, -1.0, -2.0, 0.0, 0.0])
    sides = Parameters(start, start), (Parameters(first, first), Parameters(second, second))
    found = merged(*sides, Layouts(TWO, TWO), 0.5)
    cosine = 1 / 2**0.5
    weight = 0.5 * 2 * cosine / (1 + cosine)
    expected = [1 + weight * 3, 1 + weight * 1.5, 0, 0, 0, 5]  # opposite directions, and none, stay at the start
    assert found.image.tolist() == pytest.approx(expected) and torch.equal(found.image, found.text)


def test_experts_share_their_start_and_nothing_else(tiny_study: Study, tiny_cache: Path) -> None:
    tasks = [load(tiny_study, tiny_cache, **{"experts.shared_start": shared}) for shared in (True, False)]
    (one, other), (own, another) = (
        [train_expert(task, expert_training(task.study), index)[0] for index in (0, 1)] for task in tasks
    )
    assert torch.equal(one[0].image, other[0].image) and torch.equal(one[0].text, other[0].text)
    assert not torch.equal(one[1].image, other[1].image)
    assert not torch.equal(own[0].image, another[0].image)


def test_a_merged_teacher_is_of_two_experts(
    tiny_study: Study, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(tiny_study, tiny_cache, **MERGED)
    experts = [train_expert(task, expert_training(task.study), index)[0] for index in (0, 1, 2)]
    seen: list[tuple[Parameters, Parameters]] = []

    def recorded(start: Parameters, pair: tuple[Parameters, Parameters], layouts: Layouts, scale: float) -> Parameters:
        assert torch.equal(start.image, experts[0][0].image) and scale == 0.5
        seen.append(pair)
        return merged(start, pair, layouts, scale)

    monkeypatch.setattr(rayvldd.distillation.expert_fit, "merged", recorded)
    method, generator = ExpertFit(task, task.study.distillation, experts), np.random.default_rng(0)
    for _ in range(20):
        method._draw_teacher(generator)
    known = [(index, epoch) for index in range(3) for epoch in (1, 2)]
    found = [
        {key for key in known for one in pair if torch.equal(experts[key[0]][key[1]].image, one.image)} for pair in seen
    ]
    assert all(len({index for index, _ in keys}) == 2 for keys in found)
    assert {key for keys in found for key in keys} == set(known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts.shared_start": False}, "got experts.shared_start false"),
        ({"experts.num_experts": 1}, "experts.num_experts 1"),
    ],
)
def test_a_merged_teacher_needs_two_experts_with_one_start(
    tiny_study: Study, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_study.override({**MERGED, **change})
