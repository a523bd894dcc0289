"""Where files of a store lie: what a folder, a bucket and Ray's object store can all do.

Everything that makes an expert store trustworthy (manifests, checksums, leases, checkpoints) is written once, over
these few operations, in :mod:`rayvldd.experts.store.expert_store`.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from rayvldd.storage.tensor_files import TensorSource


@runtime_checkable  # so that signatures that name it can be checked while testing
class Storage(Protocol):
    """Named files, each there whole or not at all, used by many processes and hosts at the same time.

    Names are relative paths with ``/``. A storage travels to actors and trials by pickle, so it holds addresses and no
    open files or connections. Every method raises ``StoreError``, with the address, the reason and the next command,
    when the storage cannot be read or written.
    """

    @property
    def uri(self) -> str:
        """Its address, as users write it."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """The names of all finished files below a folder, in full and sorted."""
        ...

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where it is not there."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where it is not there."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole, in the place of any that is there."""
        ...

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old`` (None: if it is not there), and return whether it did.

        Of many that try at once, exactly one succeeds.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no fault."""
        ...

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        """Give a local path to write a safetensors file to; it gets its name when the block ends without an error.

        What a killed process leaves behind never counts, and is cleared away later.
        """
        ...

    def open_tensors(self, name: str) -> TensorSource:
        """Open a safetensors file for reading tensor by tensor, without reading them all."""
        ...

    def forget_local_copy(self, name: str) -> bool:
        """Drop what this machine keeps of a remote file; return whether there was something, which may be damaged."""
        ...


@runtime_checkable
class KeepsParts(Protocol):
    """A storage in which a killed process can leave parts of files, seen by nobody and taking up room."""

    def abandoned_parts(self) -> dict[str, int]:
        """Parts so old that their writer is dead, with their bytes."""
        ...

    def drop_parts(self, parts: Iterable[str]) -> None:
        """Remove some of them."""
        ...
