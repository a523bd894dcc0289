"""Work in a background thread: periodic calls that continue after errors, and reads whose errors reach their owner."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Take = Callable[[], Read]
"""Returns the result of a read, or raises its error."""

logger = logging.getLogger(__name__)


class RepeatedCall:
    """Calls a function at regular intervals while a block runs, or until it is stopped.

    A failed call is logged and the next call follows as usual; a thread that ended silently would leave its work
    undone. Of consecutive failures with the same error only the first is logged.

    Args:
        name: Name of the thread and of the log messages.
        every_s: Seconds between two calls.
        call: The function.
        consequence: Consequence of a failed call, for the log message.
    """

    def __init__(self, name: str, every_s: float, call: Callable[[], None], consequence: str) -> None:
        self._name, self._every_s, self._call, self._consequence = name, every_s, call, consequence
        self.error: Exception | None = None
        """Error of the last call; None if it succeeded."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> "RepeatedCall":
        """Start the thread; the first call follows after one interval."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop the thread after the current call."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> "RepeatedCall":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _repeat(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._call()
            except Exception as error:
                self._note(error)
            else:
                self.error = None

    def _note(self, error: Exception) -> None:
        before, self.error = self.error, error
        if before is None or repr(before) != repr(error):
            reason = str(error) or type(error).__name__
            # Errors of this package explain the problem; for others the location in the code is needed.
            logger.warning("%s: %s: %s", self._name, self._consequence, reason)
            logger.debug("%s", self._name, exc_info=error)


@contextmanager
def reading(name: str) -> Generator[Callable[[Take[Read]], Take[Read]]]:
    """Read in one background thread in this block; yields a function that begins a read and returns how to take it.

    Reads run one after another in the order in which they begin. An error of a read is raised where its result is
    taken. When the block ends, also by an error or Ctrl-C, reads that have not begun are dropped, and the thread ends.

    Args:
        name: Name of the thread.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
    try:
        yield lambda read: pool.submit(read).result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_advance(
    begin: Callable[[Take[Read]], Take[Read]], read: Callable[[Item], Read], items: Iterable[Item]
) -> Generator[Read]:
    """Yield what is read for each item, in order; the next read has begun before a result is yielded.

    Args:
        begin: Begins a read, as yielded by :func:`reading`.
        read: Reads an item.
        items: Iterated by the caller's thread.
    """
    begun: deque[Take[Read]] = deque()
    for item in items:
        begun.append(begin(partial(read, item)))
        if len(begun) > 1:
            yield begun.popleft()()
    while begun:
        yield begun.popleft()()
