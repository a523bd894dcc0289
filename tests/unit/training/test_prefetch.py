"""Batches that are read in the background are those that are read when they are needed."""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pretend_graphs import PretendDriver
from helpers.tasks import StudyTask, load
from torch import Tensor

from rayvldd.background import reading
from rayvldd.config.study import Study
from rayvldd.evaluation.scoring import score
from rayvldd.experts.recipe import expert_training
from rayvldd.experts.training import train_epochs_together, train_expert
from rayvldd.models.device_arrays import DeviceArrays
from rayvldd.models.device_options import DeviceOptions
from rayvldd.models.side_stream import SideStream
from rayvldd.training.real_batches import RealEpoch

NAME = "rayvldd batches"


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No array fits on the device, in place of a GPU; the threads that read rows."""
    found, plain = list[str](), DeviceArrays.rows

    def rows(self: DeviceArrays, array: np.ndarray, index: np.ndarray) -> Tensor:
        found.append(threading.current_thread().name)
        return plain(self, array, index)

    monkeypatch.setattr(DeviceArrays, "stays", lambda self, array: False)
    monkeypatch.setattr(DeviceArrays, "rows", rows)
    return found


def both(task: StudyTask) -> tuple[StudyTask, StudyTask]:
    return task, replace(task, options=DeviceOptions(prefetch=False))


@pytest.mark.parametrize("protocol", ["heads_only", "full_image_encoder"])
def test_experts_are_the_same(tiny_study: Study, tiny_cache: Path, names: list[str], protocol: str) -> None:
    with_reader, without = both(load(tiny_study, tiny_cache, **{"model.protocol": protocol, "model.dropout": 0.1}))
    training = expert_training(with_reader.study)
    found, metrics = train_expert(with_reader, training, 0)
    assert names and all(name.startswith(NAME) for name in names) and readers() == []
    names.clear()
    expected, expected_metrics = train_expert(without, training, 0)
    assert names and not any(name.startswith(NAME) for name in names)
    for epoch in range(found.num_epochs + 1):
        assert all(map(torch.equal, found[epoch], expected[epoch]))
    assert [m | {"seconds": 0} for m in metrics] == [m | {"seconds": 0} for m in expected_metrics]
    parameters = expected[found.num_epochs]
    assert score(with_reader, parameters, with_reader.test) == score(without, parameters, without.test)


def test_experts_of_one_pass_are_the_same(tiny_study: Study, tiny_cache: Path, names: list[str]) -> None:
    with_reader, without = both(load(tiny_study, tiny_cache))
    training = expert_training(with_reader.study)
    found, expected = ([*train_epochs_together(task, training, [0, 1])][-1] for task in (with_reader, without))
    assert any(name.startswith(NAME) for name in names) and readers() == []
    for left, right in zip(found, expected, strict=True):
        assert all(map(torch.equal, left.parameters, right.parameters))
        assert left.random_state == right.random_state


def test_a_reader_ends_with_its_epoch(
    tiny_study: Study, tiny_cache: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(tiny_study, tiny_cache)
    epoch = RealEpoch(task, 8, "all")
    with closing(epoch.batches(np.random.default_rng(1))) as batches:
        next(batches)
        assert len(readers()) == 1
    assert readers() == []

    def broken(self: DeviceArrays, array: np.ndarray, index: np.ndarray) -> Tensor:
        raise OSError("a damaged page")

    monkeypatch.setattr(DeviceArrays, "rows", broken)
    with pytest.raises(OSError, match="a damaged page"):
        train_expert(task, expert_training(task.study), 0)
    assert readers() == []


def test_all_epochs_are_read_by_one_stream(
    tiny_study: Study, tiny_cache: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU keeps what a stream has freed for this stream alone, so a new one for each epoch fills its memory."""
    made, followed = list[SideStream](), list[SideStream]()
    begin, follow = SideStream.__init__, SideStream.follow

    def beginning(self: SideStream, device: torch.device) -> None:
        made.append(self)
        begin(self, device)

    def following(self: SideStream) -> None:
        followed.append(self)
        follow(self)

    monkeypatch.setattr(SideStream, "__init__", beginning)
    monkeypatch.setattr(SideStream, "follow", following)
    task = load(tiny_study, tiny_cache)
    training = expert_training(task.study)
    train_expert(task, training, 0)
    assert len(made) == 1 and len(followed) > 1 and set(map(id, followed)) == {id(made[0])}


def test_on_a_cpu_nothing_is_read_in_the_background(
    tiny_study: Study, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: Any) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr("rayvldd.models.retrieval_task.reading", no_thread)
    task = load(tiny_study, tiny_cache)
    read, plain = list[int](), DeviceArrays.rows

    def rows(self: DeviceArrays, array: np.ndarray, index: np.ndarray) -> Tensor:
        read.append(len(index))
        return plain(self, array, index)

    monkeypatch.setattr(DeviceArrays, "rows", rows)
    batches = RealEpoch(task, 8, "all").batches(np.random.default_rng(1))
    next(batches)
    assert read == [8, 8], "images and texts of one batch: the next one is read when it is needed"


def test_the_computation_waits_for_the_copies_and_the_host_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pretend driver; the tensors note the streams for which their memory is kept."""
    driver, kept = PretendDriver(), list[tuple[float, str]]()
    driver.install(monkeypatch)
    monkeypatch.setattr(
        Tensor, "record_stream", lambda tensor, stream: kept.append((float(tensor), stream.name)), raising=False
    )
    during = list[str]()

    def read(value: float) -> Callable[[], tuple[Tensor | None, ...]]:
        def rows() -> tuple[Tensor | None, ...]:
            during.append(driver.current[-1].name)
            return torch.tensor(value), None

        return rows

    stream = SideStream(torch.device("cuda", 0))
    stream.follow()
    (side,) = driver.streams
    assert side.waited == ["default"], "arrays that were copied to the device before are there"
    with reading("copies") as begin:
        takes = [stream.begun(begin, read(value)) for value in (1.0, 2.0)]
        found = [take()[0] for take in takes]
    assert [float(value) for value in found if value is not None] == [1.0, 2.0]
    assert during == [side.name] * 2
    assert driver.default.waited == [f"event of {side.name}"] * 2
    assert kept == [(1.0, "default"), (2.0, "default")]
