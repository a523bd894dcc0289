"""The GPUs of a process: which it uses, and how much memory of a shared one."""

import torch

_OWN_SHARE = 0.95
"""Fraction of a share for tensors; the rest is for the driver's context and libraries, which torch does not count."""


def limit_gpu_memory(num_gpus: float) -> None:
    """Limit the memory of this process to its fraction of a GPU, so that processes cannot take each other's.

    Args:
        num_gpus: GPUs of the process; only a fraction of one is a limit.
    """
    if 0 < num_gpus < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(_OWN_SHARE * num_gpus)


def further_gpus(num_gpus: float) -> tuple[str, ...]:
    """Return the devices that share the images of student steps with the first one.

    Args:
        num_gpus: GPUs of the process: 0, a fraction of one, or a whole number.
    """
    return tuple(f"cuda:{number}" for number in range(1, int(num_gpus)))
