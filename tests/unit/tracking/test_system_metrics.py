"""The use of the machine: names of MLflow's own monitor, values of the machine, and nothing that cannot be read."""

from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from rayvldd.tracking import system_metrics
from rayvldd.tracking.system_metrics import MachineSampler

Times = namedtuple("Times", "user system idle iowait guest")


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def none() -> Iterator[tuple[None, list[object]]]:
        yield None, []

    monkeypatch.setattr(system_metrics, "nvidia_gpus", none)


def test_processors_are_measured_between_two_samples(without_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a disk is no work, and the time of a guest is in that of its user already."""
    readings = [Times(10, 5, 80, 5, 10), Times(15, 6, 93, 6, 15), Times(15, 6, 93, 6, 15), Times(25, 6, 93, 6, 15)]
    monkeypatch.setattr("psutil.cpu_times", lambda: readings.pop(0))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(used=3e9, total=4e9))
    sampler = MachineSampler()
    memory = {"system/system_memory_usage_megabytes": 3000.0, "system/system_memory_usage_percentage": 75.0}
    assert sampler.sample() == {**memory, "system/cpu_utilization_percentage": 30.0}
    assert sampler.sample() == memory, "no time has passed"
    assert sampler.sample() == {**memory, "system/cpu_utilization_percentage": 100.0}


def test_the_values_of_this_machine_are_plausible(without_gpus: None) -> None:
    sampler = MachineSampler()
    found = sampler.sample()
    while "system/cpu_utilization_percentage" not in found:  # the kernel counts in hundredths of a second
        found = sampler.sample()
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100
    assert 0 < found["system/system_memory_usage_percentage"] < 100


def test_gpus_have_the_names_of_mlflow_and_lack_what_they_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def utilization(handle: str) -> Any:
        if handle == "a part":
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=42)

    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=2e9, total=8e9),
        nvmlDeviceGetUtilizationRates=utilization,
        nvmlDeviceGetPowerUsage=lambda handle: 70_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 280_000,
    )

    @contextmanager
    def two() -> Iterator[tuple[ModuleType, list[object]]]:
        yield cast(ModuleType, library), ["whole", "a part"]

    monkeypatch.setattr(system_metrics, "nvidia_gpus", two)
    found = {name: value for name, value in MachineSampler().sample().items() if "gpu" in name}
    of_both = {
        f"system/gpu_{number}_{name}": value
        for number in (0, 1)
        for name, value in (
            ("memory_usage_megabytes", 2000.0),
            ("memory_usage_percentage", 25.0),
            ("power_usage_watts", 70.0),
            ("power_usage_percentage", 25.0),
        )
    }
    assert found == {**of_both, "system/gpu_0_utilization_percentage": 42.0}
