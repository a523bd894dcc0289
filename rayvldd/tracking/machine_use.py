"""Resources that a computation used: peak memory of a process, and energy if the machine measures it.

Values that cannot be read are left out; nothing is estimated.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from rayvldd.background import RepeatedCall

POWERCAP = Path("/sys/class/powercap")
"""Energy counters of processor packages (RAPL, Intel and AMD); on most machines only root can read them."""
_EVERY_S = 30.0
"""Seconds between readings: a package's counter wraps around at 262 kJ, i.e. after 15 minutes at 290 W."""
_PROCESS = Path("/proc/self")


class PeakMemory:
    """Peak main and GPU memory of this process since this object was created.

    Main memory is Linux's high-water mark of resident memory. It includes the touched pages of memory-mapped caches,
    which other processes may share. The mark is reset for each trial of a process.
    """

    def __init__(self) -> None:
        self._has_mark = False
        with suppress(OSError):  # not Linux, or a kernel without this file
            (_PROCESS / "clear_refs").write_text("5")
            self._has_mark = True
        if gpu := _torch_gpu():
            gpu.reset_peak_memory_stats()

    def metrics(self) -> dict[str, float]:
        """``peak_memory_gb`` and ``peak_gpu_memory_gb``, in 10^9 bytes; without values that cannot be read."""
        found = {}
        with suppress(OSError):
            if self._has_mark and (mark := re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())):
                found["peak_memory_gb"] = int(mark[1]) * 1024 / 1e9
        if gpu := _torch_gpu():
            found["peak_gpu_memory_gb"] = gpu.max_memory_allocated() / 1e9
        return found


class MachineEnergy:
    """Energy of the whole machine while a block runs, including other processes: processor packages, NVIDIA GPUs."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._packages = _readable_packages(powercap)
        self._joules = dict.fromkeys(self._packages, 0.0)
        self._last = {package: _counter(package) for package in self._packages}
        self._gpu_start = _gpu_joules()
        self._reading = threading.Lock()

    def read(self) -> None:
        """Add the energy of the packages since the last reading.

        Raises:
            OSError: if a counter cannot be read.
            ValueError: if a counter is empty or not a number.
        """
        with self._reading:
            for package, last in self._last.items():
                now = _counter(package)
                turned = int((package / "max_energy_range_uj").read_text()) if now < last else 0
                self._joules[package] += (now - last + turned) / 1e6
                self._last[package] = now

    @contextmanager
    def reading(self) -> Iterator["MachineEnergy"]:
        """Read the counters periodically while the block runs."""
        if not self._packages:
            yield self
            return
        with RepeatedCall("energy reader", _EVERY_S, self.read, "a counter was not read"):
            yield self

    def metrics(self) -> dict[str, float]:
        """``machine_cpu_kj`` and ``machine_gpu_kj`` so far; without values that the machine does not measure."""
        found = {}
        with suppress(OSError, ValueError):  # an incomplete sum is not reported
            if self._packages:
                self.read()
                found["machine_cpu_kj"] = sum(self._joules.values()) / 1e3
        gpu_end = _gpu_joules()
        if self._gpu_start is not None and gpu_end is not None:
            found["machine_gpu_kj"] = (gpu_end - self._gpu_start) / 1e3
        return found


def _readable_packages(powercap: Path) -> list[Path]:
    """The zones of processor packages; empty unless all can be read, because a partial sum would be misleading."""
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
    """Energy of all NVIDIA GPUs since their driver was loaded; None if there is no GPU or it has no counter."""
    with nvidia_gpus() as (pynvml, handles):
        if pynvml is None or not handles:
            return None
        try:
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3
        except pynvml.NVMLError:
            return None


@contextmanager
def nvidia_gpus() -> Iterator[tuple[ModuleType | None, list[object]]]:
    """NVIDIA's library and its handles of all GPUs of the machine; without GPUs or driver None and no handle."""
    try:
        import pynvml
    except ImportError:  # an installation of an earlier release without this dependency
        yield None, []
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no GPU, or no driver
        yield None, []
        return
    try:
        yield pynvml, _handles(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _handles(pynvml: ModuleType) -> list[object]:
    try:
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _torch_gpu() -> ModuleType | None:
    """The module ``torch.cuda``, if this process has used a GPU."""
    import torch

    return torch.cuda if torch.cuda.is_initialized() else None
