"""Work that repeats in a thread of its own, which no error of one round ends."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType

logger = logging.getLogger(__name__)


class RepeatedCall:
    """Calls a function at regular intervals while a block runs, or until it is stopped.

    A round that fails is logged, and the next one comes as if it had not: a thread that ends without a word leaves its
    owner in the belief that the work is done. Of rounds that fail alike one after the other, the first is logged.

    Args:
        name: The thread's name, and what stands in the log.
        every_s: Seconds between two calls.
        call: What is called.
        consequence: What a failed round means, for people.
    """

    def __init__(self, name: str, every_s: float, call: Callable[[], None], consequence: str) -> None:
        self._name, self._every_s, self._call, self._consequence = name, every_s, call, consequence
        self.error: Exception | None = None
        """Why the last round failed; None where it did not."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> "RepeatedCall":
        """Begin; the first call comes after the first interval."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the call that is under way."""
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
            # What we raise ourselves says what is wrong; of anything else the place in the code is needed.
            logger.warning("%s: %s: %s", self._name, self._consequence, reason)
            logger.debug("%s", self._name, exc_info=error)
