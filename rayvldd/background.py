"""Periodic calls in a background thread that continues after errors."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType

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
