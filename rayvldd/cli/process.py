"""The process of a command line: it ends as soon as everything is written."""

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

from rayvldd.cli.main import main


def run() -> NoReturn:
    """Run the command line and end the process, without freeing every object of every library.

    After a sweep Python needs three seconds of CPU for that, in which nothing happens that a user waits for. All
    threads that are to be waited for have ended by then, and the functions that Ray and others registered for the exit
    were called: functions are called in reverse order, so the one that is registered here first is the last.
    """
    code = 1  # of an error that nothing handles: Python prints it before it calls the function

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the reader of a pipe is gone, or the stream is closed
                stream.flush()
        os._exit(code)

    atexit.register(leave)
    try:
        main(prog_name="rayvldd")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        raise
    raise AssertionError("click ends a command line with SystemExit")
