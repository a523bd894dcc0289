"""Environment variables of Ray's processes."""

import os
import sysconfig
from pathlib import Path

import rayvldd

END_TIMEOUT = "TUNE_FUNCTION_THREAD_TIMEOUT_S"
END_TIMEOUT_S = "600"
"""Seconds that a stopped trial has to end before its process starts the next one. Releasing memory can take longer than
Tune's default of 2 on a busy machine; Tune would then drop the next trial without notifying the searcher and wait for
it indefinitely."""


def _checkout() -> str | None:
    folder = str(Path(rayvldd.__file__).parents[1])
    return None if folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")) else folder


CHECKOUT = _checkout()
"""Folder that workers need on their path to import this package; None if it is installed."""


def python_path(folder: str) -> str:
    """Return ``PYTHONPATH`` with a folder in front of the others."""
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != folder]
    return os.pathsep.join([folder, *others])


def variables_of_workers() -> dict[str, str]:
    """Return the variables that the workers of a cluster need; those of a local Ray inherit them."""
    return {END_TIMEOUT: os.environ[END_TIMEOUT], **({"PYTHONPATH": python_path(CHECKOUT)} if CHECKOUT else {})}
