"""Training steps as CUDA graphs give the parameters and losses of steps without, on a pretend driver."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pretend_graphs import PretendDriver
from helpers.tasks import CONVNET, load, random_inputs, small_model
from torch import Tensor

from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation.full_data import recipes_of, train_on_all
from rayvldd.evaluation.students import train_student, train_students_stacked
from rayvldd.experts.recipe import expert_training
from rayvldd.experts.training import train_expert
from rayvldd.models.device_options import DeviceOptions
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.training.sgd import SgdSettings, TrainingBatch, train_on_batches
from rayvldd.training.stacked import StackedBatch, train_stacked

MODELS: dict[str, dict[str, Any]] = {
    "heads_only": {},
    "full_image_encoder": {},
    "lora": {"lora": {"targets": ["blocks.0", "blocks.4"], "rank": 2}},
}
SGD = SgdSettings(0.1, 0.2, 0.9, 5e-4, "cosine", 8)
"""Rates that change from step to step."""
SIZES = [4, 4, 3, 4, 4, 3, 4, 4]
"""Pairs of each batch: those of four are recorded after three of them, those of three never."""


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> PretendDriver:
    made = PretendDriver()
    made.install(monkeypatch)
    return made


def batches(model: RetrievalModel, with_similarity: bool, offset: int = 0) -> Iterator[TrainingBatch]:
    for step, size in enumerate(SIZES):
        drawn = random_inputs(model, seed=step + 100 * offset, pairs=size, with_similarity=with_similarity)
        yield TrainingBatch(drawn.frozen_output, drawn.texts, drawn.similarity)


def stacked(model: RetrievalModel, with_similarity: bool) -> Iterator[StackedBatch]:
    for of_models in zip(*(batches(model, with_similarity, offset) for offset in (1, 2)), strict=True):
        parts = [[part for part in each if part is not None] for each in of_models]
        yield StackedBatch(*(torch.stack(rows) for rows in zip(*parts, strict=True)))


@pytest.mark.parametrize("protocol", MODELS)
@pytest.mark.parametrize("loss", ["info_nce", "weighted_bce"])
def test_parameters_and_losses_are_those_without_graphs(driver: PretendDriver, protocol: str, loss: str) -> None:
    model, with_similarity = small_model(protocol, CONVNET, **MODELS[protocol]), loss != "info_nce"
    start = model.initial_parameters(3)
    found, found_losses = train_on_batches(model, start, batches(model, with_similarity), SGD, loss, cuda_graphs=True)
    expected, losses = train_on_batches(model, start, batches(model, with_similarity), SGD, loss)
    assert_same([*found, *found_losses], [*expected, *losses])
    assert [graph.replays for graph in driver.graphs] == [3] and driver.modes == ["thread_local"]
    warm_up = driver.streams[0]
    assert warm_up.waited == ["default"] * 5 and driver.default.waited == [warm_up.name] * 5


@pytest.mark.parametrize("protocol", ["heads_only", "lora"])
def test_models_of_one_pass_are_those_without_graphs(driver: PretendDriver, protocol: str) -> None:
    model = small_model(protocol, CONVNET, **MODELS[protocol])
    starts = [model.initial_parameters(seed) for seed in (3, 4)]
    found, found_losses = train_stacked(model, starts, stacked(model, True), SGD, "weighted_bce", cuda_graphs=True)
    expected, losses = train_stacked(model, starts, stacked(model, True), SGD, "weighted_bce")
    assert_same(
        [*(side for each in found for side in each), *found_losses],
        [*(side for each in expected for side in each), *losses],
    )
    assert [graph.replays for graph in driver.graphs] == [3]


def test_a_task_has_graphs_on_a_gpu_without_dropout(tiny_study: Study, tiny_cache: Path) -> None:
    task, gpu = load(tiny_study, tiny_cache), torch.device("cuda", 0)
    graphs = DeviceOptions(cuda_graphs=True)
    assert not replace(task, options=graphs).has_step_graphs and not replace(task, device=gpu).has_step_graphs
    assert replace(task, device=gpu, options=graphs).has_step_graphs
    dropping = load(tiny_study, tiny_cache, **{"model.dropout": 0.1})
    assert not replace(dropping, device=gpu, options=graphs).has_step_graphs


def test_experts_students_and_models_of_all_pairs_are_those_without_graphs(
    tiny_study: Study, tiny_cache: Path, driver: PretendDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(tiny_study, tiny_cache, **{"evaluation.epochs": 6, "experts.batch_size": 8})
    pairs, recipe = choose_coreset(task, "random", 6, 1).pairs(task, 0.1), recipes_of(task.study.evaluation)[0]

    def trained() -> Iterator[tuple[str, Parameters]]:
        yield "expert", train_expert(task, expert_training(task.study), 0)[0][1]
        yield "student", train_student(task, pairs, task.model.frozen_part(pairs.images), task.study.evaluation, 1)
        (together,) = train_students_stacked(
            task, pairs, task.model.frozen_part(pairs.images), task.study.evaluation, [2]
        )
        yield "students in one pass", together
        yield "all pairs", train_on_all(task, recipe.model_copy(update={"epochs": 2, "batch_size": 8}), 3, 4)

    expected = dict(trained())
    assert driver.graphs == []
    monkeypatch.setattr(RetrievalTask, "has_step_graphs", True)
    for name, found in trained():
        assert driver.graphs and driver.graphs[-1].replays, name
        driver.graphs.clear()
        assert_same(list(found), list(expected[name]))


def test_models_of_one_pass_take_images_with_the_channels_last() -> None:
    model = small_model("lora", CONVNET, **MODELS["lora"])
    starts = [model.initial_parameters(seed) for seed in (3, 4)]
    expected, _ = train_stacked(model, starts, stacked(model, False), SGD)
    model.with_channels_last()
    last = (
        batch._replace(frozen_output=torch.stack([*map(model.laid_out, batch[0])])) for batch in stacked(model, False)
    )
    found, _ = train_stacked(model, starts, last, SGD)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close([*left], [*right], rtol=1e-9, atol=1e-12)


def test_a_step_that_cannot_be_recorded_runs_without(
    driver: PretendDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, plain = small_model("heads_only", CONVNET), RetrievalModel.loss

    def reads_a_number(self: RetrievalModel, parameters: Parameters, *args: Any, **options: Any) -> Tensor:
        return plain(self, parameters, *args, **options) * (1 if parameters.text.sum().isfinite() else 0)

    monkeypatch.setattr(RetrievalModel, "loss", reads_a_number)
    start = model.initial_parameters(3)
    with caplog.at_level(logging.WARNING, "rayvldd.training"):
        found, _ = train_on_batches(model, start, batches(model, False), SGD, cuda_graphs=True)
    expected, _ = train_on_batches(model, start, batches(model, False), SGD)
    assert_same(list(found), list(expected))
    assert driver.graphs == [] and len(driver.modes) == 1, "it is tried once"
    (message,) = (record.getMessage() for record in caplog.records)
    assert "cannot be recorded and runs without: operation not permitted" in message
    assert message.endswith("\n      and further lines"), "the reason is not always in the first line"


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for left, right in zip(found, expected, strict=True):
        assert torch.equal(left, right)
