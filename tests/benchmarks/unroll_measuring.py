"""Seconds and bytes: two runs against each other in one process, and a run's peak memory in a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from unroll_cases import SIZES, build_case, outer_step

Run = Callable[[], Any]

# glibc keeps freed blocks to use them again and raises by itself the size from which it asks the system instead, so
# that a process's peak shows its history. With these every block of 64 KiB or more goes back when it is freed: the
# peak is what was alive at one time.
EVERY_BLOCK_GOES_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_MMAP_MAX_": "1000000",
}


def seconds(run: Run, device: str) -> float:
    """Of processor time; on a GPU of time until it has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - begin
    begin = time.process_time()
    run()
    return time.process_time() - begin


def fastest(runs: dict[str, Run], rounds: int, device: str) -> dict[str, float]:
    """The shortest of ``rounds`` times of each, taken in turns: a machine that slows down slows all of them."""
    for run in runs.values():  # compiles, and touches memory for the first time
        run()
    times = [{name: seconds(run, device) for name, run in runs.items()} for _ in range(rounds)]
    return {name: min(taken[name] for taken in times) for name in runs}


@dataclass(frozen=True)
class MemoryJob:
    """One outer step whose peak memory is wanted."""

    case: str
    """A name in ``SIZES``."""
    steps: int
    device: str
    engine: dict[str, Any] = field(default_factory=dict)

    def peak_in_fresh_process(self, script: Path) -> int:
        """Bytes above what was there before the step, measured by ``script --measure-memory``."""
        command = [sys.executable, str(script), "--measure-memory", json.dumps(asdict(self))]
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        finished = subprocess.run(
            command, env={**os.environ, **EVERY_BLOCK_GOES_BACK, **threads}, stdout=subprocess.PIPE, check=True
        )
        return int(finished.stdout.split()[-1])

    def measure(self) -> int:
        """Take the step here, in a process in which nothing else was done, and return its peak in bytes.

        The step is the first one: what torch loads for it counts in small and in large walks alike.
        """
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        case = build_case(SIZES[self.case], self.device)
        return peak_bytes(outer_step(case, self.steps, engine=self.engine), self.device)


def peak_bytes(run: Run, device: str) -> int:
    """The most memory that ``run`` takes above what is taken before; on a GPU of torch's own allocator."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten (proc(5))
    before = _kilobytes_in_status("VmRSS")
    run()
    return 1024 * (_kilobytes_in_status("VmHWM") - before)


def _kilobytes_in_status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
