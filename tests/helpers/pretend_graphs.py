"""CUDA graphs and streams of a pretend driver on the CPU: operations are recorded, and repeated at the same addresses.

As on a GPU, a recording fails where the host reads a number of the device, and a replay computes from what is in the
memory of the recording at the time, and overwrites the results before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
"""Operations that are not permitted while a graph is recorded."""


class PretendGraph:
    """A recorded list of operations."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat all operations, and write their results to where they were when recorded."""
        self.replays += 1
        for function, args, kwargs, results in self.operations:
            read = {value.untyped_storage().data_ptr() for value in tree_leaves((args, kwargs)) if _is(value)}
            for old, new in zip(tree_leaves(results), tree_leaves(function(*args, **kwargs)), strict=True):
                if _is(old) and old.untyped_storage().data_ptr() not in read:  # views have their memory already
                    old.copy_(new)


def _is(value: object) -> bool:
    return isinstance(value, Tensor)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: PretendGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {function}\nand further lines")
        results = function(*args, **(kwargs or {}))
        self._graph.operations.append((function, args, kwargs or {}, results))
        return results


@dataclass
class PretendStream:
    """A stream that notes for which others it waits; everything is computed at once."""

    name: str
    waited: list[str] = field(default_factory=list)

    def wait_stream(self, other: "PretendStream") -> None:
        """Wait for all work of another stream."""
        self.waited.append(other.name)

    def wait_event(self, event: "PretendEvent") -> None:
        """Wait for an event."""
        self.waited.append(f"event of {event.stream}")


class PretendEvent:
    """An event of a stream."""

    stream = ""

    def record(self, stream: PretendStream) -> None:
        """Record it on a stream."""
        self.stream = stream.name


class PretendDriver:
    """What is asked of ``torch.cuda``."""

    def __init__(self) -> None:
        self.graphs: list[PretendGraph] = []
        self.modes: list[str] = []
        self.default = PretendStream("default")
        self.current = [self.default]
        self.streams: list[PretendStream] = []

    @contextmanager
    def on(self, stream: PretendStream) -> Iterator[None]:
        """``torch.cuda.stream``."""
        self.current.append(stream)
        try:
            yield
        finally:
            self.current.pop()

    @contextmanager
    def recording(self, graph: PretendGraph, capture_error_mode: str) -> Iterator[None]:
        """``torch.cuda.graph``."""
        self.modes.append(capture_error_mode)
        with _Recorder(graph):
            yield
        self.graphs.append(graph)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of the driver."""
        streams = self.streams

        class Stream(PretendStream):  # a class, since libraries that are imported meanwhile annotate with it
            def __init__(self, device: object = None) -> None:
                super().__init__(f"stream {len(streams)}")
                streams.append(self)

        parts: dict[str, Callable[..., Any]] = {
            "Stream": Stream,
            "Event": PretendEvent,
            "stream": self.on,
            "current_stream": lambda device=None: self.current[-1],
            "CUDAGraph": PretendGraph,
            "graph": self.recording,
        }
        for name, part in parts.items():
            monkeypatch.setattr(torch.cuda, name, part)
