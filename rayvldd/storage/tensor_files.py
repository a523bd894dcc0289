"""Safetensors files, written atomically and read by memory mapping."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rayvldd.storage.atomic import file_written_whole


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path`` atomically; after a crash the path holds the old file or the new one."""
    with file_written_whole(path) as part:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part, metadata)
        # safetensors creates files that only their owner can read; experts in a shared folder are for the team
        os.umask(mask := os.umask(0))
        part.chmod(0o666 & ~mask)


def checksum(tensor: Tensor) -> str:
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

    def tensor(self, name: str) -> Tensor:
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

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, memory-mapped: its data is read on first use."""
        with safe_open(self._path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor
