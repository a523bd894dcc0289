"""The most memory that a call takes, on the CPU of the whole process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

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


def peak_in_fresh_process(script: Path, *measured: str, num_threads: int = 1) -> int:
    """Run ``script --measure-memory MEASURED...``, which prints a number of bytes, in a process of its own."""
    environment = {**os.environ, **EVERY_BLOCK_GOES_BACK, "OMP_NUM_THREADS": str(num_threads)}
    command = [sys.executable, str(script), "--measure-memory", *measured]
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return int(finished.stdout.split()[-1])


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
