"""Start a local Ray instance, or connect to the user's cluster."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypedDict

import ray

from rayvldd.console import ProgressDisplay
from rayvldd.errors import RayvlddError, message_of
from rayvldd.printable import counted
from rayvldd.runtime.environment import END_TIMEOUT, variables_of_workers
from rayvldd.runtime.machine import processor_name

OBJECT_STORE_BYTES = 256 * 2**20
"""Object store size of a local Ray: actors exchange only settings, scores and small sets, never trajectories."""

_ANSWER_S = 10.0
"""Time limit in seconds for connecting to the port of a cluster's head."""

_TRIES = 3
_TOO_SLOW = "timed out during startup"
"""Part of Ray's message when its processes did not start within 30 seconds."""


class _RayOptions(TypedDict, total=False):
    """Options of ``ray.init``."""

    address: str
    num_cpus: int | None
    object_store_memory: int
    include_dashboard: bool
    runtime_env: dict[str, dict[str, str]]


_is_ours = False
_is_local = False
"""Whether the connected Ray was started for this process and has this machine alone."""


def workers_have_our_variables() -> bool:
    """Whether Ray's workers have our variables: always if :func:`start_ray` started or joined it, else maybe."""
    if _is_ours:
        return True
    value: str | None = ray.get(ray.remote(num_cpus=0)(os.getenv).remote(END_TIMEOUT))
    return value is not None


@contextmanager
def start_ray(address: str | None, num_cpus: int | None, display: ProgressDisplay | None = None) -> Iterator[None]:
    """Provide a Ray connection for the block: the existing one, or a new one that is closed at the end.

    Args:
        address: A cluster, ``auto`` or ``HOST:PORT``; default: a local Ray instance for the duration of the block.
        num_cpus: CPUs of the local Ray instance; default: all of them.
        display: Shows that Ray starts and ends, which takes seconds.

    Raises:
        RayvlddError: when no Ray answers at ``address``, or none starts on this machine.
    """
    if ray.is_initialized():
        yield
        return
    options = _local_options(num_cpus) if address is None else _cluster_options(address)
    try:
        if address is not None:
            _refuse_silence(address)
        with _handler_of_sigterm_kept(), _shown(display, "starting Ray"):
            _init(options)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError or ValueError, after the reason
        raise _unusable(error, address) from error
    global _is_ours, _is_local
    _is_ours, _is_local = True, address is None
    try:
        yield
    finally:
        _is_ours = _is_local = False
        with _shown(display, "ending Ray"):
            ray.shutdown()


def _unusable(error: Exception, address: str | None) -> RayvlddError:
    """The error of a Ray that does not start on this machine, or that cannot be joined at an address."""
    reason = message_of(error)
    if address is not None:
        return RayvlddError(
            f"Ray at {address}: cannot be used: {reason}; allowed: auto, HOST:PORT of a running cluster, or no address",
            next_command="ray status, to see whether a cluster runs; or the same command without an address",
        )
    causes = (
        f". Its processes had {_TRIES} times 30 seconds: the machine is too busy, or memory or /dev/shm is full"
        if _TOO_SLOW in reason
        else ""
    )
    return RayvlddError(
        f"Ray on this machine: cannot be used: {reason}{causes}",
        next_command="free -h and df -h /dev/shm, which show free memory; then the same command on a less busy machine",
    )


def _shown(display: ProgressDisplay | None, what: str) -> AbstractContextManager[None]:
    """Show an activity for the duration of a block, where there is a display."""
    return display.during(what) if display else nullcontext()


def refuse_dead_ray() -> None:
    """Raise if a local Ray has lost its only node; on a cluster, actors wait for the next one.

    Raises:
        RayvlddError: if Ray's process on this machine, the raylet, has died: an actor that had not started would wait
            for ever.
    """
    if _is_local and not any(node["Alive"] for node in ray.nodes()):
        raise RayvlddError(
            "Ray on this machine: its process, the raylet, has died; the usual cause is that memory ran out",
            next_command="the same command, which keeps finished work",
        )


def is_one_machine() -> bool:
    """Whether :func:`start_ray` started the connected Ray, which then has this machine alone and never gets more."""
    return _is_local


def cpus_of_cluster() -> float:
    """CPUs of the connected Ray, of all its nodes."""
    return float(ray.cluster_resources().get("CPU", 0.0))


def gpus_of_cluster() -> float:
    """GPUs of the connected Ray, of all its nodes."""
    return float(ray.cluster_resources().get("GPU", 0.0))


def describe_cluster() -> str:
    """The nodes, CPUs and GPUs of the connected Ray in words, with their names: ``2 CPUs (AMD EPYC)``.

    The processor is named if there is one node, which is then this machine; Ray knows the names of GPUs on all nodes.
    """
    nodes, resources = sum(bool(node["Alive"]) for node in ray.nodes()), ray.cluster_resources()
    prefix = "accelerator_type:"
    gpu_names = ", ".join(sorted(key.removeprefix(prefix) for key in resources if key.startswith(prefix)))
    names = {"CPU": processor_name() if nodes == 1 else "", "GPU": gpu_names}
    parts = [f"{nodes} machines"] if nodes > 1 else []
    for what, name in names.items():
        if count := int(resources.get(what, 0)):
            parts.append(counted(count, what) + (f" ({name})" if name else ""))
    return ", ".join(parts)


def _refuse_silence(address: str) -> None:
    """Raise if nothing listens at an address; Ray itself would keep trying for ten minutes.

    The same happens with ``auto`` after a cluster was killed, because Ray's folder still holds its address.
    """
    of_linux = os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp"  # Ray's rule
    file = Path(os.environ.get("RAY_TMPDIR", of_linux), "ray", "ray_current_cluster")
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or (file.read_text().strip() if file.is_file() else "")
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {address} ({error.strerror or error})") from error


def _init(options: _RayOptions) -> None:
    """Start or join Ray; retry if a local Ray instance does not start in time on a busy machine.

    Ray's own limit of 30 seconds cannot be configured.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            # Errors reach the driver as exceptions; output of workers stays in Ray's log folder.
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray raises a bare Exception here
            if not tries_left or _TOO_SLOW not in str(error):
                raise
            ray.shutdown()


@contextmanager
def _handler_of_sigterm_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM after the block, in which Ray installs others.

    One of them ends Python while Ray starts. The one that remains prints a stack of C++ and aborts, so that no block
    is left properly, and neither the tracker nor the user is informed.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    handler, terminated = signal.getsignal(signal.SIGTERM), False
    try:
        yield
    except SystemExit as ended:
        terminated = ended.code == signal.SIGTERM
        if not terminated:
            raise
        ray.shutdown()
    finally:
        signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


def _local_options(num_cpus: int | None) -> _RayOptions:
    # "local", because without an address Ray would join any instance on this machine, even one of another user.
    return {
        "address": "local",
        "num_cpus": num_cpus,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }


def _cluster_options(address: str) -> _RayOptions:
    return {"address": address, "runtime_env": {"env_vars": variables_of_workers()}}
