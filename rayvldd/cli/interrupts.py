"""Ctrl-C and SIGTERM: both end a command in the same way, with its finished work kept and the tracker informed."""

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM is what batch systems and Kubernetes send before they kill."""


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; everything that handles Ctrl-C handles it too."""


def exit_code_of(error: KeyboardInterrupt) -> int:
    """Exit code after an interruption, as in shells: 128 + number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`KeyboardInterrupt` or :class:`Terminated` in the block at the first of both signals.

    A second signal is only acknowledged, so that trials, Ray and the tracker can end; the third one ends the process
    at once. After an interruption the handlers remain until Python ends, because Ray also ends processes at exit. In
    the last seconds, when Python has no handlers any more, both signals are ignored: they would change the exit code.
    A signal that the process was started to ignore stays ignored, as under nohup.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before: dict[signal.Signals, Any] = {
        number: signal.getsignal(number) for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN
    }
    received, first = 0, 0

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal received, first
        received += 1
        if received == 1:
            first = number
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if received == 2:
            # print() could be interrupted by this very signal while it holds the lock of the stream
            os.write(2, b"\nEnding; once more ends at once, and may leave processes of Ray for some seconds.\n")
            return
        os._exit(128 + number)

    def ignore_from_now_on() -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    for number in before:
        signal.signal(number, receive)
    atexit.register(ignore_from_now_on)  # the first function is the last one that is called, after that of Ray
    try:
        yield
    except KeyboardInterrupt as error:
        if first == signal.SIGTERM and not isinstance(error, Terminated):  # Ray raises its own in place of ours
            raise Terminated from error
        raise
    finally:
        if not received:
            atexit.unregister(ignore_from_now_on)
            for number, handler in before.items():
                signal.signal(number, handler)
