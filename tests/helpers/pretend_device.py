"""A pretend accelerator: a device ``pretend:0`` whose tensors are computed on the CPU.

It finds mistakes of placement on a machine without a GPU. As on one, an operation that meets a tensor of the CPU beside
one of the device raises, unless that tensor is a scalar or an index. Operations that make the host wait for the device
are counted.

torch allows one such device in a process, and it must be registered before the first backward pass, which starts the
threads of all devices: call :func:`register` at the start of a process of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyDeviceGuard,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)

NAME = "pretend"
_HOST = torch.device("cpu")

_aten = torch.ops.aten
_MOVING = {_aten._to_copy.default, _aten.copy_.default}
"""Operations that may read tensors of the host and of a device."""
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
"""Operations that accept indexes on the host, which they copy to the device."""
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten.repeat_interleave.Tensor,
    _aten._linalg_check_errors.default,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
    _aten.unique_dim.default,
}
"""Operations whose result, or the shape of it, the host reads."""

counted: Counter[str] = Counter()
"""How often the host had to wait for a device so far, by operation."""
copied_bytes: Counter[str] = Counter()
"""How much was copied so far."""


class DeviceTensor(torch.Tensor):
    """A tensor of a pretend device; ``raw`` has its numbers."""

    raw: Tensor
    _is_param: bool
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, raw: Tensor) -> "DeviceTensor":
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def __init__(self, raw: Tensor) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(function, args, kwargs or {})

    def tolist(self) -> Any:
        counted["tolist"] += 1
        return self.raw.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeviceTensor":
        made = DeviceTensor(self.raw.clone())
        made._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = made.requires_grad_(self.requires_grad)
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.raw}, device={self.device})"


def _computed(function: Any, args: Any, kwargs: Any) -> Any:
    """Check the devices of an operation, count it if the host waits for it, and compute it on the CPU."""
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if function in _MOVING:
        return _moved(function, args, kwargs, target)
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    on_device = [value for value in tensors if isinstance(value, DeviceTensor)]
    _check_devices(function, tensors, on_device)
    if function in _WAITING:
        counted[function.__name__.partition(".")[0]] += 1
    if function in _INDEXING and any(value.dtype is torch.bool for value in tensors[1:]):
        counted["mask"] += 1
    if target is not None:
        kwargs = {**kwargs, "device": _HOST}
    result = function(*map(_unwrapped, args), **{name: _unwrapped(value) for name, value in kwargs.items()})
    if torch.Tag.inplace_view in function.tags:  # the wrapper has a shape of its own
        with no_dispatch():
            function(*args, **kwargs)
    return _wrapped(result, {id(value.raw): value for value in on_device})


def _check_devices(function: Any, tensors: list[Tensor], on_device: list[DeviceTensor]) -> None:
    """Raise for operations that a GPU refuses.

    Raises:
        RuntimeError: when tensors are on different devices.
    """
    if not on_device:
        return
    host = [value for value in tensors if not isinstance(value, DeviceTensor) and value.ndim]
    if host and function in _INDEXING and isinstance(tensors[0], DeviceTensor):
        counted["copy of an index"] += 1
        host = []
    if host:
        found = ", ".join(f"{value.device} of shape {tuple(value.shape)}" for value in tensors)
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, but found {found}")


def _moved(function: Any, args: Any, kwargs: Any, target: torch.device | None) -> Any:
    """Copy between the host and devices; the host waits unless the copy is asynchronous."""
    in_place = function is _aten.copy_.default
    source = args[1] if in_place else args[0]
    goal = args[0].device if in_place else target or source.device
    if goal.type == NAME and source.device.type != NAME:
        copied_bytes["to a device"] += source.nbytes
    if goal.type != source.device.type:
        asynchronous = kwargs.get("non_blocking") or (in_place and len(args) > 2 and args[2])
        if asynchronous and goal.type == NAME and not getattr(source, _PAGE_LOCKED, False):
            counted["copy of memory that is not page-locked"] += 1
        if not asynchronous:
            counted["copy to the host" if goal.type == "cpu" else "copy to a device"] += 1
    if "device" in kwargs:
        kwargs = {**kwargs, "device": _HOST}
    raw = function(*map(_unwrapped, args), **kwargs)
    if in_place:
        return args[0]
    return DeviceTensor(raw) if goal.type == NAME else raw


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _unwrapped(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.raw
    return type(value)(map(_unwrapped, value)) if type(value) in (list, tuple) else value


def _wrapped(value: Any, given: dict[int, "DeviceTensor"]) -> Any:
    """Wrap results; an argument that was written in place is returned itself."""
    if isinstance(value, Tensor):
        return given[id(value)] if id(value) in given else DeviceTensor(value)
    if type(value) in (list, tuple):
        return type(value)(_wrapped(one, given) for one in value)
    return value


class _Module(_DummyBackendModule):
    """What torch asks of ``torch.pretend``."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


@cache
def register() -> None:
    """Add the device to torch; later calls do nothing."""
    _setup_privateuseone_for_python_backend(NAME, _Module(), _DummyPrivateUse1Hook(), _DummyDeviceGuard())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda function, *args, **kwargs: _computed(function, args, kwargs), "PrivateUse1")
    factories = torch.library.Library("aten", "IMPL")
    for name in _RESIZING:
        overload = getattr(_aten, name.partition(".")[0])
        function = getattr(overload, name.partition(".")[2] or "default")
        factories.impl(name, _factory(function), "PrivateUse1")
    _kept.extend([library, factories])
    torch.tensor, torch.empty = _on_the_host_first(torch.tensor), _pinned_by_name(torch.empty)
    torch.Tensor.pin_memory = _pinned_copy  # type: ignore[method-assign,assignment]


def _on_the_host_first(tensor: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` copies to a device in a way that no wrapper can follow."""

    def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        grad = options.pop("requires_grad", False)
        value = tensor(data, **options)
        return (value if device is None else value.to(device)).requires_grad_(grad)

    return made


_PAGE_LOCKED = "is_page_locked"
"""Attribute of tensors whose memory would be page-locked; only a driver can do that."""


def _pinned_by_name(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        value = empty(*size, **options)
        setattr(value, _PAGE_LOCKED, pin_memory)
        return value

    return made


def _pinned_copy(values: Tensor) -> Tensor:
    copy = values.clone()
    setattr(copy, _PAGE_LOCKED, True)
    return copy


_kept: list[Any] = []
"""Registrations end with their library objects."""
_RESIZING = (
    "arange",
    "arange.start",
    "arange.start_step",
    "eye",
    "eye.m",
    "linspace",
    "randperm",
    "randperm.generator",
)
"""Factories that torch implements by resizing an empty tensor, which a wrapper cannot do."""


def _factory(function: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: _computed(function, args, kwargs)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the waits in this block."""
    before = counted.copy()
    found: Counter[str] = Counter()
    yield found
    found.update(counted - before)
