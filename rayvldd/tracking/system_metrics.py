"""Use of the machine over time: processors, main memory and NVIDIA GPUs, under the names of MLflow's own monitor.

MLflow's monitor has threads of its own that write to the server past the outbox. Here only the values are read, and
the tracker writes them as its other metrics. The names are those that MLflow's pages show as system metrics.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType

import psutil

from rayvldd.tracking.machine_use import nvidia_gpus

SYSTEM = "system/"
"""Prefix by which MLflow's pages tell system metrics from those of a model."""
EVERY_S = 10.0
"""Seconds between two samples, as of MLflow's monitor."""


class MachineSampler:
    """Reads the use of this machine, by all of its processes; what cannot be read is left out."""

    def __init__(self) -> None:
        self._busy_s, self._total_s = _cpu_seconds()

    def sample(self) -> dict[str, float]:
        """The use of processors since the last sample, and of memory and GPUs now, by metric.

        Percentages are of the whole machine, or of one GPU; memory is in 10^6 bytes, power in watts.
        """
        memory = psutil.virtual_memory()
        found = {
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
        }
        busy, total = _cpu_seconds()
        if total > self._total_s:
            found["cpu_utilization_percentage"] = 100 * (busy - self._busy_s) / (total - self._total_s)
            self._busy_s, self._total_s = busy, total
        found.update(_gpu_use())
        return {f"{SYSTEM}{name}": round(value, 1) for name, value in found.items()}


def _cpu_seconds() -> tuple[float, float]:
    """Busy and total seconds of all processors since the machine was started.

    The function of psutil for this remembers its last call by thread, so that the first one of a new thread says 0.
    """
    times = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # they are part of others
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _gpu_use() -> dict[str, float]:
    found: dict[str, float] = {}
    with nvidia_gpus() as (pynvml, handles):
        if pynvml is not None:
            for number, handle in enumerate(handles):
                for read in _READERS:
                    with suppress(pynvml.NVMLError):  # a part of a GPU has no counters of its own
                        found.update({f"gpu_{number}_{name}": value for name, value in read(pynvml, handle)})
    return found


def _gpu_memory(pynvml: ModuleType, handle: object) -> Iterator[tuple[str, float]]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    yield "memory_usage_megabytes", memory.used / 1e6
    yield "memory_usage_percentage", 100 * memory.used / memory.total


def _gpu_utilization(pynvml: ModuleType, handle: object) -> Iterator[tuple[str, float]]:
    yield "utilization_percentage", float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _gpu_power(pynvml: ModuleType, handle: object) -> Iterator[tuple[str, float]]:
    watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
    yield "power_usage_watts", watts
    yield "power_usage_percentage", 100 * watts * 1e3 / pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)


_READERS: tuple[Callable[[ModuleType, object], Iterator[tuple[str, float]]], ...] = (
    _gpu_memory,
    _gpu_utilization,
    _gpu_power,
)
