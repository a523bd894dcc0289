"""The GPUs of a process: which it uses, how much memory of a shared one, and the precision of their products."""

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def gpu_memory_limited_here(num_gpus: float) -> Iterator[None]:
    """Take back a limit that this block sets, in a process that goes on with other work, such as a notebook's.

    Args:
        num_gpus: GPUs that the block uses; only a fraction of one is a limit.
    """
    if not (0 < num_gpus < 1 and torch.cuda.is_available()):
        yield
        return
    before = torch.cuda.get_per_process_memory_fraction()
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before)


def further_gpus(num_gpus: float) -> tuple[str, ...]:
    """Return the devices that share the images of student steps with the first one.

    Args:
        num_gpus: GPUs of the process: 0, a fraction of one, or a whole number.
    """
    return tuple(f"cuda:{number}" for number in range(1, int(num_gpus)))


def compute_in_float32() -> None:
    """Compute products and convolutions on GPUs in float32; torch's default for convolutions is TF32."""
    _allow_tf32(products=False, convolutions=False)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Compute products and convolutions of float32 numbers on GPUs in TF32 in this block, if it is allowed.

    TF32 has the range of float32 and 10 bits of mantissa in place of 23.
    """
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    if allowed:
        _allow_tf32(products=True, convolutions=True)
    try:
        yield
    finally:
        _allow_tf32(products=products, convolutions=convolutions)


def _allow_tf32(*, products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions
