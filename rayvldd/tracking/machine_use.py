"""What a computation took of the machine: the peak memory of a process, and energy where the machine counts it.

What cannot be read is left out; nothing here is estimated.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rayvldd.background import RepeatedCall

POWERCAP = Path("/sys/class/powercap")
"""Counters of processor packages (RAPL, Intel and AMD); on most machines only root may read them."""
_EVERY_S = 30.0
"""Seconds between readings: a package's counter of 262 kJ turns over after 15 minutes at 290 W."""
_PROCESS = Path("/proc/self")


class PeakMemory:
    """The most memory that this process, and the models on its GPU, have had since this object was made.

    Main memory is what Linux calls the high-water mark of resident memory, with the pages of memory-mapped caches that
    the process has touched, which others may share. A process that runs trial after trial starts each at a new mark.
    """

    def __init__(self) -> None:
        self._has_mark = False
        with suppress(OSError):  # no Linux, or a kernel without it
            (_PROCESS / "clear_refs").write_text("5")
            self._has_mark = True
        if gpu := _torch_gpu():
            gpu.reset_peak_memory_stats()

    def metrics(self) -> dict[str, float]:
        """``peak_memory_gb`` and ``peak_gpu_memory_gb``, in 10^9 bytes; without what cannot be told."""
        found = {}
        with suppress(OSError):
            if self._has_mark and (mark := re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())):
                found["peak_memory_gb"] = int(mark[1]) * 1024 / 1e9
        if gpu := _torch_gpu():
            found["peak_gpu_memory_gb"] = gpu.max_memory_allocated() / 1e9
        return found


class MachineEnergy:
    """Energy of the whole machine while a block runs, whatever else ran on it: processor packages, NVIDIA GPUs."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._packages = _readable_packages(powercap)
        self._joules = dict.fromkeys(self._packages, 0.0)
        self._last = {package: _counter(package) for package in self._packages}
        self._gpu_start = _gpu_joules()
        self._reading = threading.Lock()

    def read(self) -> None:
        """Add what the packages have counted since the last reading.

        Raises:
            OSError: when a counter cannot be read.
            ValueError: when a counter is empty or no number.
        """
        with self._reading:
            for package, last in self._last.items():
                now = _counter(package)
                turned = int((package / "max_energy_range_uj").read_text()) if now < last else 0
                self._joules[package] += (now - last + turned) / 1e6
                self._last[package] = now

    @contextmanager
    def reading(self) -> Iterator["MachineEnergy"]:
        """Read the counters often enough while the block runs."""
        if not self._packages:
            yield self
            return
        with RepeatedCall("energy reader", _EVERY_S, self.read, "a counter was not read"):
            yield self

    def metrics(self) -> dict[str, float]:
        """``machine_cpu_kj`` and ``machine_gpu_kj`` so far; without what the machine does not tell."""
        found = {}
        with suppress(OSError, ValueError):  # a sum without its last part is no sum
            if self._packages:
                self.read()
                found["machine_cpu_kj"] = sum(self._joules.values()) / 1e3
        gpu_end = _gpu_joules()
        if self._gpu_start is not None and gpu_end is not None:
            found["machine_gpu_kj"] = (gpu_end - self._gpu_start) / 1e3
        return found


def _readable_packages(powercap: Path) -> list[Path]:
    """The zones of processor packages; none unless all can be read, for a part would pass for the whole."""
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    try:
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        for package in packages:
            _counter(package)
    except (OSError, ValueError):
        return []
    return packages


def _counter(package: Path) -> int:
    return int((package / "energy_uj").read_text())


def _gpu_joules() -> float | None:
    """What all NVIDIA GPUs have used since their driver was loaded; None without one, or with one too old to count."""
    try:
        import pynvml
    except ImportError:  # an installation from before rayvldd wanted it
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no GPU, or no driver
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3 if handles else None
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _torch_gpu() -> Any:
    """The module ``torch.cuda`` where this process has used a GPU."""
    import torch

    return torch.cuda if torch.cuda.is_initialized() else None
