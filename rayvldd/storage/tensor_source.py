"""Reading of safetensors files by memory mapping, and checksums of tensors.

This module does not import torch, which takes seconds: a storage can read and list its small files without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import xxhash
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor


def checksum(tensor: "Tensor") -> str:
    """Return a checksum of 32 hex digits that detects damage, but not deliberate manipulation.

    xxh3 is about ten times as fast as SHA-256, which would dominate the time to read a segment of a trajectory.
    """
    return xxhash.xxh3_128_hexdigest(tensor.detach().cpu().contiguous().numpy().data)


class DamagedFileError(Exception):
    """A tensor differs from the one that was written; the message names it."""


@runtime_checkable
class TensorSource(Protocol):
    """A file of named tensors, open for reading; processes of a machine share its memory."""

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        ...

    @property
    def identity(self) -> str:
        """String that identifies the file; it changes when the file is replaced."""
        ...

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata stored with the tensors."""
        ...

    def tensor(self, name: str) -> "Tensor":
        """Return one tensor, if possible as a view of mapped or shared memory; it must not be modified."""
        ...


class MappedTensors:
    """A safetensors file on a disk of this machine, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="pt") as file:
                self.names = list(file.keys())
                self.metadata: dict[str, str] = file.metadata() or {}
            self.identity = f"{path} {path.stat().st_mtime_ns}"
        except SafetensorError as error:
            raise DamagedFileError(f"its header cannot be read ({error})") from None

    def tensor(self, name: str) -> "Tensor":
        """Return one tensor, memory-mapped: its data is read on first use."""
        with safe_open(self._path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor
