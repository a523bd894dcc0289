"""Storage in Ray's object store: a file is stored once and read by all processes of a node without copying.

The content lives only as long as the Ray cluster. It suits a sweep whose experts are read by many trials at once and
are not needed afterwards. ``rayvldd experts copy`` copies them to a folder or a bucket.

A named, detached actor that reserves no CPU is the directory. It holds small files itself and owns every object, so a
set survives the process that created it. Ray places the actor on the head node, together with the first copy of every
object, so losing any other node loses no data. The processes of another node share one copy. When the object store of
the head node is full, Ray spills to its disk.
"""

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, ObjectFetchTimedOutError, ObjectLostError, RayActorError, RayError
from safetensors import safe_open
from torch import Tensor

from rayvldd.errors import OutageError, StoreError, message_of
from rayvldd.storage.new_files import unfinished_file
from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_source import DamagedFileError, TensorSource

_NAMESPACE = "rayvldd"

_HEAD_NODE = "node:__internal_head__"
"""Resource that only the head node has."""

_TIMEOUT_S = 120.0
"""Time limit for a directory call: on a busy machine a new process takes tens of seconds to start."""

_CALLS_AT_ONCE = 16
"""Threads of the directory, so that storing a large object does not block small files."""

_AGAIN = "the same command, which makes the missing files"


class _StoredTensor(NamedTuple):
    """A tensor as bytes: Ray shares numpy arrays without copying, but numpy has no bfloat16."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: np.ndarray


class _StoredFile(NamedTuple):
    metadata: dict[str, str]
    tensors: dict[str, _StoredTensor]


class _Entry(NamedTuple):
    """Directory entry of a tensor file: its object (in a list, so that Ray does not fetch it) and its size in bytes."""

    version: str
    objects: list[ray.ObjectRef[_StoredFile]]
    size: int


class _Directory:
    """The directory actor."""

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

    def keep(self, name: str, objects: list[ray.ObjectRef[_StoredFile]], size: int) -> None:
        """Copy a file into an object owned by this actor: an object is lost when the process that put it ends."""
        own = ray.put(ray.get(objects[0]))
        with self._lock:
            # Random: a directory that replaces a dead one must not reuse its versions.
            self._large[name] = _Entry(secrets.token_hex(8), [own], size)
            self._small.pop(name, None)

    def entry(self, name: str) -> _Entry | None:
        with self._lock:
            return self._large.get(name)

    def drop(self, name: str, version: str) -> None:
        """Remove the entry of a lost object, unless the file has been written again."""
        with self._lock:
            if name in self._large and self._large[name].version == version:
                del self._large[name]


class RayStorage:
    """Files under one storage name in the connected Ray cluster."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: tuple[str, Any] | None = None

    def __getstate__(self) -> dict[str, str | None]:
        return {"_name": self._name, "_found": None}

    @property
    def uri(self) -> str:
        """``object-store://NAME``."""
        return f"object-store://{self._name}"

    def names(self, folder: str = "") -> list[str]:
        """Names of all files below a folder, sorted."""
        found: list[str] = self._ask("names")
        return [name for name in found if not folder or name.startswith(f"{folder}/")]

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if it does not exist."""
        size: int | None = self._ask("size", name)
        return size

    def read(self, name: str) -> bytes | None:
        """Read a small file; None if it does not exist."""
        content: bytes | None = self._ask("read", name)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        self._ask("write", name, content)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old``."""
        return bool(self._ask("swap", name, old, new))

    def delete(self, name: str) -> None:
        """Remove a file; its memory is freed after the last reader releases it."""
        self._ask("delete", name)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Yield a path in the system's temporary folder; the written file is then moved into the object store."""
        folder = Path(tempfile.gettempdir()) / f"rayvldd-object-store-{os.getuid()}"
        with self.translating_errors(name):
            self._directory()  # fail before training when the storage is not available
        with unfinished_file(folder, name) as path:
            yield path
            size, stored = path.stat().st_size, _read(path)
            with self.translating_errors(name):
                mine = ray.put(stored)
                del stored
            # The directory copies it into an object of its own, possibly over the network: no time limit.
            self._ask("keep", name, [mine], size, timeout_s=None)

    def open_tensors(self, name: str) -> TensorSource:
        """Open a file in the memory of this node; Ray transfers it first if necessary."""
        entry: _Entry | None = self._ask("entry", name)
        if entry is None:
            raise StoreError(
                f"{self._address(name)}: is not there; allowed: a finished file",
                next_command="rayvldd experts STUDY.yaml (makes missing ones)",
            )
        with self.translating_errors(name):
            try:
                return SharedTensors(f"{self._address(name)} {entry.version}", ray.get(entry.objects[0]))
            except ObjectLostError as error:
                if not isinstance(error, ObjectFetchTimedOutError):
                    self._ask("drop", name, entry.version)
                raise

    def forget_local_copy(self, name: str) -> bool:
        """Return False: Ray manages and checks its own copies."""
        return False

    def _ask(self, method: str, *values: object, timeout_s: float | None = _TIMEOUT_S) -> Any:
        """Call the directory and wait for its answer."""
        with self.translating_errors(str(values[0]) if values else ""):
            return ray.get(getattr(self._directory(), method).remote(*values), timeout=timeout_s)

    def _directory(self) -> "ActorHandle[_Directory]":
        """Return the directory actor; processes that create it at the same time all get the same actor."""
        if not ray.is_initialized():
            raise StoreError(
                f"{self.uri}: no Ray is connected, and this storage is part of a Ray cluster; "
                f"allowed: a command on the cluster that holds it",
                next_command="ray status, to see whether a cluster runs; the same command with its address",
            )
        cluster = ray.get_runtime_context().gcs_address
        # A handle from another cluster, or from an earlier connection of this process, is not valid.
        if self._found is None or self._found[0] != cluster:
            self._found = cluster, _find_or_make(f"object-store:{self._name}")
        return self._found[1]

    def _address(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri

    @contextmanager
    def translating_errors(self, name: str) -> Iterator[None]:
        """Translate errors of Ray into a ``StoreError`` with address, reason and next command."""
        try:
            yield
        except (RayError, ConnectionError) as error:
            reason, next_command = _explained(error)
            if isinstance(error, RayActorError):
                self._found = None  # so that the next call makes a new, empty directory
            raise OutageError(
                f"{self._address(name)}: {reason}; allowed: a Ray cluster that keeps its head node and has the memory",
                next_command=next_command,
            ) from error


class SharedTensors:
    """A tensor file in memory shared by all processes of the node."""

    def __init__(self, identity: str, stored: _StoredFile) -> None:
        self.identity = identity
        self.names = list(stored.tensors)
        self.metadata = stored.metadata
        self._tensors = stored.tensors

    def tensor(self, name: str) -> Tensor:
        """Return one tensor as a view of the shared memory; it must not be modified."""
        if name not in self._tensors:
            raise DamagedFileError(f"{name} is not in it")
        dtype, shape, data = self._tensors[name]
        # Arrays from the object store are read-only. `torch.from_numpy` warns about them, and a warning can only be
        # silenced for all threads of a process at once; DLPack accepts them without a warning.
        return torch.from_dlpack(data).view(dtype).reshape(shape)


def _find_or_make(name: str) -> "ActorHandle[_Directory]":
    try:
        return ray.get_actor(name, namespace=_NAMESPACE)
    except ValueError:  # it does not exist yet
        options: dict[str, Any] = {
            "name": name,
            "namespace": _NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "resources": {_HEAD_NODE: 0.001},
            "max_concurrency": _CALLS_AT_ONCE,
        }
        return cast("ActorHandle[_Directory]", ray.remote(_Directory).options(**options).remote())


def _read(path: Path) -> _StoredFile:
    """Read a safetensors file with memory mapping."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        metadata: dict[str, str] = file.metadata() or {}
    stored = {
        name: _StoredTensor(tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy())
        for name, tensor in tensors.items()
    }
    return _StoredFile(metadata, stored)


def _explained(error: Exception) -> tuple[str, str]:
    """Return the reason behind an error of Ray, and the next command."""
    if isinstance(error, RayActorError):
        return f"its directory died, and all that it held with it ({message_of(error)})", _AGAIN
    if isinstance(error, GetTimeoutError):
        return f"its directory did not answer within {_TIMEOUT_S:.0f} s", "ray status, to see the state of the cluster"
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
