"""Ray itself: a small, quiet one on this machine, or the cluster that the user names."""

import logging
import os
import socket
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

import rayvldd
from rayvldd.errors import RayvlddError, message_of

OBJECT_STORE_BYTES = 256 * 2**20
"""Room for what actors hand each other, on a Ray of our own: settings, scores and small sets, never trajectories."""

_ANSWER_S = 10.0
"""Seconds that the port of a cluster's head has to answer in."""

_TRIES = 3
_TOO_SLOW = "timed out during startup"
"""Part of what Ray says when its processes were not up within 30 seconds."""


@contextmanager
def start_ray(address: str | None, num_cpus: int | None) -> Iterator[None]:
    """Have a Ray inside the block: the one that is connected already, or a new connection that ends with the block.

    Args:
        address: A cluster, ``auto`` or ``HOST:PORT``; default: a Ray on this machine that lives as long as the block.
        num_cpus: CPUs of the Ray on this machine; default: all of them.

    Raises:
        RayvlddError: when no Ray answers at ``address``.
    """
    if ray.is_initialized():
        yield
        return
    _prepare_environment()
    options = _local_options(num_cpus) if address is None else _cluster_options(address)
    try:
        if address is not None:
            _refuse_silence(address)
        _init(options)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError or ValueError, after the reason
        where = "on this machine" if address is None else f"at {address}"
        raise RayvlddError(
            f"Ray {where}: cannot be used: {message_of(error)}; allowed: auto, HOST:PORT of a running "
            f"cluster, or no address",
            next_command="ray status, to see whether a cluster runs; or the same command without an address",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_silence(address: str) -> None:
    """Raise where nothing listens at an address, on which Ray itself would go on trying for ten minutes.

    So it does with ``auto`` after a cluster that was killed, whose address is still noted in Ray's folder.
    """
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or (file.read_text().strip() if file.is_file() else "")
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {address} ({error.strerror or error})") from error


def _init(options: dict[str, Any]) -> None:
    """Start or join Ray; a machine so busy that a Ray of our own does not come up in time gets further tries.

    Ray gives its processes 30 seconds, which no setting changes.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            # Errors reach the driver as exceptions; what workers print stays in Ray's log folder.
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray raises a bare Exception here
            if not tries_left or _TOO_SLOW not in str(error):
                raise
            ray.shutdown()


def _local_options(num_cpus: int | None) -> dict[str, Any]:
    # "local", because no address at all means any Ray that already runs on this machine, somebody else's included.
    return {
        "address": "local",
        "num_cpus": num_cpus,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }


def _cluster_options(address: str) -> dict[str, Any]:
    checkout = _checkout()
    environment = {"env_vars": {"PYTHONPATH": _python_path(checkout)}} if checkout else None
    return {"address": address, "runtime_env": environment}


def _prepare_environment() -> None:
    """Set what Ray's own processes inherit; what the user has set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without it Ray hides all GPUs from who asks for none, and warns that it will stop doing so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    checkout = _checkout()
    if checkout:
        os.environ["PYTHONPATH"] = _python_path(checkout)


def _checkout() -> str | None:
    """The folder that workers must have on their path to import this very package; nothing where it is installed."""
    folder = str(Path(rayvldd.__file__).parents[1])
    return None if folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")) else folder


def _python_path(folder: str) -> str:
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != folder]
    return os.pathsep.join([folder, *others])
