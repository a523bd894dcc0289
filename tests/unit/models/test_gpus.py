"""The devices of a process with GPUs, and its share of the memory of one, on a stand-in of the driver."""

import numpy as np
import pytest
import torch

from rayvldd.distillation.unroll.graph_budget import GraphBudget
from rayvldd.models.copies import to_device
from rayvldd.models.device_arrays import DeviceArrays
from rayvldd.models.device_memory import free_bytes
from rayvldd.models.gpus import (
    compute_in_float32,
    further_gpus,
    gpu_memory_limited_here,
    limit_gpu_memory,
    tf32,
)

TOTAL = 80 * 10**9
GPU = torch.device("cuda", 0)


class Driver:
    """One GPU, as a process sees it that has a share of it."""

    def __init__(self, used_by_others: int) -> None:
        self.used_by_others, self.allocated, self.fraction = used_by_others, 0, 1.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def limit(fraction: float) -> None:
            self.fraction = fraction

        for name, function in {
            "is_available": lambda: True,
            "set_per_process_memory_fraction": limit,
            "get_per_process_memory_fraction": lambda device=None: self.fraction,
            "memory_allocated": lambda device: self.allocated,
            "memory_reserved": lambda device: self.allocated,
            "mem_get_info": lambda device: (TOTAL - self.used_by_others - self.allocated, TOTAL),
        }.items():
            monkeypatch.setattr(torch.cuda, name, function)


@pytest.mark.parametrize(("num_gpus", "expected"), [(0.0, ()), (0.5, ()), (1.0, ()), (3.0, ("cuda:1", "cuda:2"))])
def test_a_process_uses_all_gpus_that_it_has(num_gpus: float, expected: tuple[str, ...]) -> None:
    assert further_gpus(num_gpus) == expected


def test_two_trials_on_one_gpu_have_budgets_that_fit_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Driver(used_by_others=0)
    first.install(monkeypatch)
    limit_gpu_memory(0.5)
    budget_of_first = free_bytes(GPU)

    second = Driver(used_by_others=budget_of_first)  # the first one has taken all that it may
    second.install(monkeypatch)
    limit_gpu_memory(0.5)

    assert budget_of_first <= TOTAL / 2
    assert free_bytes(GPU) == budget_of_first
    assert budget_of_first + free_bytes(GPU) <= TOTAL


def test_a_budget_counts_what_the_process_has_taken_of_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(used_by_others=0)
    driver.install(monkeypatch)
    limit_gpu_memory(0.25)
    whole = free_bytes(GPU)
    driver.allocated = 5 * 10**9
    assert free_bytes(GPU) == whole - 5 * 10**9
    assert GraphBudget(None, GPU)._budget == free_bytes(GPU) / 2


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_data_takes_a_quarter_of_what_is_free_of_a_share(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    Driver(used_by_others=0).install(monkeypatch)
    limit_gpu_memory(share)
    kept: list[int] = []

    def copied(*size: object, **_: object) -> torch.Tensor:
        kept.append(1)
        raise torch.OutOfMemoryError  # there is no GPU: this test ends where a copy would begin

    monkeypatch.setattr(torch, "empty", copied)
    budget, one = free_bytes(GPU) // 4, np.zeros(1, np.uint8)
    assert budget < share * TOTAL / 4
    assert not DeviceArrays(GPU).stays(np.broadcast_to(one, budget + 4)) and not kept
    with pytest.raises(torch.OutOfMemoryError):
        DeviceArrays(GPU).stays(np.broadcast_to(one, budget - 4))
    assert kept == [1]


def test_a_whole_gpu_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(used_by_others=10**9)
    driver.install(monkeypatch)
    limit_gpu_memory(1.0)
    assert free_bytes(GPU) == TOTAL - 10**9


def test_a_process_that_goes_on_with_other_work_gets_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(used_by_others=0)
    driver.install(monkeypatch)
    with pytest.raises(KeyError), gpu_memory_limited_here(0.5):
        limit_gpu_memory(0.5)
        assert driver.fraction == pytest.approx(0.475)
        raise KeyError
    assert driver.fraction == 1.0


def test_tf32_is_used_only_where_it_is_allowed() -> None:
    def used() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = used()
    try:
        compute_in_float32()
        assert used() == (False, False)
        with tf32(False):
            assert used() == (False, False)
        with pytest.raises(ArithmeticError), tf32(True):
            assert used() == (True, True)
            raise ArithmeticError
        assert used() == (False, False)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_values_that_are_on_the_device_are_not_copied() -> None:
    values = torch.ones(3)
    assert to_device(values, torch.device("cpu")) is values
