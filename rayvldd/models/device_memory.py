"""Free memory of a device."""

import os
from pathlib import Path

import psutil
import torch


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device.

    Of a GPU that processes share, it is the rest of this process's share; of a CPU, that of the machine's memory or of
    the control group's limit.
    """
    if device.type == "cuda":
        return _left_of_share(device)
    return min(psutil.virtual_memory().available, _left_in_control_group())


def _left_in_control_group() -> int:
    """Return the memory left under a container's limit (cgroup v2), which system-wide numbers do not include."""
    root = Path("/sys/fs/cgroup")
    try:
        return int((root / "memory.max").read_text()) - int((root / "memory.current").read_text())
    except (OSError, ValueError):  # no limit: the file is missing or contains "max"
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_of_share(device: torch.device) -> int:
    """Return the free memory of a GPU, at most the rest of this process's share."""
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    free, total = torch.cuda.mem_get_info(device)
    share = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return max(0, min(free + unused, share - allocated))
