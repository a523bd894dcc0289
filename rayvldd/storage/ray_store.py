"""Files in Ray's object store: put once, read by every process of a node without a copy.

What lies here lives as long as the Ray cluster, and no longer: it suits a sweep whose experts are read by many trials
at once and are not needed after it. ``rayvldd experts copy`` brings them to a folder or a bucket.

One actor without a CPU, named and detached, is the directory. It holds small files itself, answers one call after the
other, and owns every object, so a set survives the process that made it. Ray places it on the head node, and with it
the first copy of every object: losing any other node loses nothing. Readers of another node get one copy for all of
them. Where the head's object store is full, Ray spills to its disk.
"""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectFetchTimedOutError, ObjectLostError, RayActorError, RayError
from safetensors import safe_open
from torch import Tensor

from rayvldd.errors import StoreError, message_of
from rayvldd.storage.new_files import unfinished_file
from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_files import DamagedFileError, TensorSource

_NAMESPACE = "rayvldd"

_HEAD_NODE = "node:__internal_head__"
"""A resource that Ray gives to the head node alone."""

_TIMEOUT_S = 120.0
"""Patience with the directory: on a busy machine a new process takes tens of seconds to start."""

_CALLS_AT_ONCE = 16
"""Threads of the directory, so that a large object on its way in holds up no small file."""

_AGAIN = "the same command again makes what is missing"


class _StoredTensor(NamedTuple):
    """A tensor as bytes: numpy, whose arrays Ray shares without a copy, does not know bfloat16."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: np.ndarray


class _StoredFile(NamedTuple):
    metadata: dict[str, str]
    tensors: dict[str, _StoredTensor]


class _Entry(NamedTuple):
    """A file of tensors in the directory: its object, in a list so that Ray does not fetch it, and its bytes."""

    version: str
    objects: list[Any]
    size: int


class _Directory:
    """The actor's side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._small: dict[str, bytes] = {}
        self._large: dict[str, _Entry] = {}

    def names(self) -> list[str]:
        with self._lock:
            return sorted({*self._small, *self._large})

    def size(self, name: str) -> int | None:
        with self._lock:
            if name in self._large:
                return self._large[name].size
            return len(self._small[name]) if name in self._small else None

    def read(self, name: str) -> bytes | None:
        with self._lock:
            return self._small.get(name)

    def write(self, name: str, content: bytes) -> None:
        with self._lock:
            self._small[name] = content
            self._large.pop(name, None)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        with self._lock:
            if self._small.get(name) != old:
                return False
            self._small[name] = new
            return True

    def delete(self, name: str) -> None:
        with self._lock:
            self._small.pop(name, None)
            self._large.pop(name, None)

    def keep(self, name: str, objects: list[Any], size: int) -> None:
        """Take over a file: whoever calls ``ray.put`` owns the object, and what it owns dies with it."""
        own = ray.put(ray.get(objects[0]))
        with self._lock:
            # Random, as a directory that takes the place of a dead one must not count from the start again.
            self._large[name] = _Entry(secrets.token_hex(8), [own], size)
            self._small.pop(name, None)

    def entry(self, name: str) -> _Entry | None:
        with self._lock:
            return self._large.get(name)

    def drop(self, name: str, version: str) -> None:
        """Forget a file whose object is lost, unless it was made anew."""
        with self._lock:
            if name in self._large and self._large[name].version == version:
                del self._large[name]


class RayStorage:
    """Files of one name in the Ray cluster that the process is connected to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: tuple[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_found": None}

    @property
    def uri(self) -> str:
        """``object-store://NAME``."""
        return f"object-store://{self._name}"

    def names(self, folder: str = "") -> list[str]:
        """The names of all files below a folder, sorted."""
        found: list[str] = self._ask("names")
        return [name for name in found if not folder or name.startswith(f"{folder}/")]

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where it is not there."""
        size: int | None = self._ask("size", name)
        return size

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where it is not there."""
        content: bytes | None = self._ask("read", name)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._ask("write", name, content)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old``."""
        return bool(self._ask("swap", name, old, new))

    def delete(self, name: str) -> None:
        """Remove a file; memory that somebody still reads is freed when they are done."""
        self._ask("delete", name)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Give a path in the machine's folder for temporary files; what was written goes into the object store."""
        folder = Path(tempfile.gettempdir()) / f"rayvldd-object-store-{os.getuid()}"
        with self.translating_errors(name):
            self._directory()  # no hour of training for a storage that is not there
        with unfinished_file(folder, name) as path:
            yield path
            size, stored = path.stat().st_size, _read(path)
            with self.translating_errors(name):
                mine = ray.put(stored)
                del stored
            # The directory copies it into an object of its own, from another node over the network: no time limit.
            self._ask("keep", name, [mine], size, timeout_s=None)

    def open_tensors(self, name: str) -> TensorSource:
        """Open a file in the memory of this node, where Ray brings it if it is not there."""
        entry: _Entry | None = self._ask("entry", name)
        if entry is None:
            raise StoreError(
                f"{self._address(name)}: is not there; allowed: a finished file",
                next_command="rayvldd experts STUDY.yaml (makes what is missing)",
            )
        with self.translating_errors(name):
            try:
                return SharedTensors(f"{self._address(name)} {entry.version}", ray.get(entry.objects[0]))
            except ObjectLostError as error:
                if not isinstance(error, ObjectFetchTimedOutError):
                    self._ask("drop", name, entry.version)
                raise

    def forget_local_copy(self, name: str) -> bool:
        """There is none: Ray's own copies are checked by Ray."""
        return False

    def _ask(self, method: str, *values: Any, timeout_s: float | None = _TIMEOUT_S) -> Any:
        """Call the directory and wait for its answer."""
        with self.translating_errors(str(values[0]) if values else ""):
            return ray.get(getattr(self._directory(), method).remote(*values), timeout=timeout_s)

    def _directory(self) -> Any:
        """The one actor of this name: of many processes that make it at the same time, all get the same."""
        if not ray.is_initialized():
            raise StoreError(
                f"{self.uri}: no Ray is connected, and this storage is part of a Ray cluster; "
                f"allowed: a command on the cluster that holds it",
                next_command="ray status, to see whether a cluster runs; the same command with its address",
            )
        cluster = ray.get_runtime_context().gcs_address
        # A connection of another cluster, or of an earlier one of this process, is of no use here.
        if self._found is None or self._found[0] != cluster:
            self._found = cluster, _find_or_make(f"object-store:{self._name}")
        return self._found[1]

    def _address(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri

    @contextmanager
    def translating_errors(self, name: str) -> Iterator[None]:
        """Turn whatever Ray raises into an error that says address, reason and way out."""
        try:
            yield
        except (RayError, ConnectionError) as error:
            reason, next_command = _explained(error)
            if isinstance(error, RayActorError):
                self._found = None  # so that the next call makes a new, empty directory
            raise StoreError(
                f"{self._address(name)}: {reason}; allowed: a Ray cluster that keeps its head node and has the memory",
                next_command=next_command,
            ) from error


class SharedTensors:
    """A file of tensors in memory that all processes of the node share."""

    def __init__(self, identity: str, stored: _StoredFile) -> None:
        self.identity = identity
        self.names = list(stored.tensors)
        self.metadata = stored.metadata
        self._tensors = stored.tensors

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the shared memory itself: never to be written to."""
        if name not in self._tensors:
            raise DamagedFileError(f"{name} is not in it")
        dtype, shape, data = self._tensors[name]
        # Arrays from the object store are read-only. `torch.from_numpy` warns about such, and a warning can only be
        # silenced for all threads of a process at once; DLPack takes them as they are.
        return torch.from_dlpack(data).view(dtype).reshape(shape)


def _find_or_make(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=_NAMESPACE)
    except ValueError:  # there is none
        options: dict[str, Any] = {
            "name": name,
            "namespace": _NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "resources": {_HEAD_NODE: 0.001},
            "max_concurrency": _CALLS_AT_ONCE,
        }
        return ray.remote(_Directory).options(**options).remote()


def _read(path: Path) -> _StoredFile:
    """The content of a safetensors file, memory-mapped."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata: dict[str, str] = file.metadata() or {}
    stored = {
        name: _StoredTensor(tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy())
        for name, tensor in tensors.items()
    }
    return _StoredFile(metadata, stored)


def _explained(error: Exception) -> tuple[str, str]:
    """What an error of Ray means here, and what to do."""
    if isinstance(error, RayActorError):
        return f"its directory died, and all that it held with it ({message_of(error)})", _AGAIN
    if isinstance(error, GetTimeoutError):
        return f"its directory did not answer within {_TIMEOUT_S:.0f} s", "ray status, to see what the cluster is at"
    if isinstance(error, ObjectFetchTimedOutError):
        return f"could not be fetched from its node ({message_of(error)})", "ray status, then the same command again"
    if isinstance(error, ObjectLostError):
        return f"its memory was lost, and its name was dropped ({message_of(error)})", _AGAIN
    return (
        f"could not be read or written ({type(error).__name__}: {message_of(error)})",
        "ray memory, to see what fills the object store",
    )


if TYPE_CHECKING:
    _storage: Storage = RayStorage("")
    _open: Callable[..., TensorSource] = SharedTensors
