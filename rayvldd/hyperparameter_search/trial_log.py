"""The log of a trial: the output of its process, its evaluations and its end."""

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from pathlib import Path

LOG = "log.txt"
"""Name of the file in the folder of a trial."""


@contextmanager
def logging_to(folder: Path) -> Iterator[Callable[[str], None]]:
    """Append output and errors of the block to the log in a trial's folder; yield a function that adds a line.

    Raises:
        OSError: if the log cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as file:

        def add(line: str) -> None:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")

        with redirect_stdout(file), redirect_stderr(file):
            add(f"begins, or continues, in process {os.getpid()} on {socket.gethostname()}")
            try:
                yield add
                add("is at its last step")
            except SystemExit:  # how Ray Tune ends a function
                with suppress(OSError):  # the disk may be what fails
                    add("is stopped")
                raise
            except Exception:
                with suppress(OSError):
                    add(f"cannot go on\n{traceback.format_exc()}")
                raise
