"""Tensors as safetensors files: written whole or not at all, read by memory mapping."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path``; whatever dies in the middle, the path holds the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
        # safetensors makes files for their owner alone; experts on a shared folder are for the team
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class DamagedFileError(Exception):
    """A tensor whose content is not what was written; the argument says which."""


@runtime_checkable
class TensorSource(Protocol):
    """A file of named tensors, open for reading; processes of a machine share what they read."""

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        ...

    @property
    def identity(self) -> str:
        """Another text whenever the file is another one."""
        ...

    @property
    def metadata(self) -> dict[str, str]:
        """What was written beside the tensors."""
        ...

    def tensor(self, name: str) -> Tensor:
        """One tensor; a view of mapped or shared memory where that is possible, never to be written to."""
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
        """One tensor, mapped: nothing is read before it is used."""
        with safe_open(self._path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor
