"""Interface of a storage: the operations that a folder, a bucket and Ray's object store have in common.

Manifests, checksums, leases and checkpoints of the expert store use only these operations; see
:mod:`rayvldd.experts.store.expert_store`.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from rayvldd.storage.tensor_source import TensorSource


@runtime_checkable  # for runtime type checks of signatures in tests
class Storage(Protocol):
    """Named files, written atomically and used by many processes and hosts at the same time.

    Names are relative paths with ``/``. A storage is pickled and sent to actors and trials, so it holds addresses and
    no open files or connections. Every method raises ``StoreError``, with the address, the reason and the next command,
    when the storage cannot be read or written.
    """

    @property
    def uri(self) -> str:
        """Address, as users write it."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Full names of all finished files below a folder, sorted."""
        ...

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if it does not exist."""
        ...

    def read(self, name: str) -> bytes | None:
        """Read a small file; None if it does not exist."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically, replacing any earlier one."""
        ...

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old`` (None: if it does not exist); return whether it was written.

        When several processes try at the same time, exactly one succeeds.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove a file; a missing file is not an error."""
        ...

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        """Yield a local path to write a safetensors file to; the file is stored when the block ends without an error.

        Incomplete files of a killed process are never visible, and are removed later.
        """
        ...

    def open_tensors(self, name: str) -> TensorSource:
        """Open a safetensors file for reading single tensors without loading the whole file."""
        ...

    def forget_local_copy(self, name: str) -> bool:
        """Delete the local copies of a remote file, which may be damaged; return whether there were any."""
        ...


@runtime_checkable
class ChecksWriting(Protocol):
    """A storage whose rights can be tested before long work."""

    def check_writable(self) -> None:
        """Check that a file can be written and removed.

        Raises:
            OutageError: if not.
        """
        ...


@runtime_checkable
class KeepsParts(Protocol):
    """A storage in which a killed process can leave partial files, which are invisible but use space."""

    def abandoned_parts(self) -> dict[str, int]:
        """Partial files old enough that their writer must have ended, with their sizes in bytes."""
        ...

    def drop_parts(self, parts: Iterable[str]) -> None:
        """Remove the given partial files."""
        ...
