"""Writes to a server that may be away for a while: in order, none lost, nobody kept waiting."""

import logging
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 30.0
"""A server that did not answer is left alone for so long, or every report of a trial would wait for it."""


class Outbox:
    """Makes writes at once while the server answers; keeps them in order and tries again while it does not.

    Args:
        address: The server, for messages.
        is_away: Whether an error means that the server cannot be reached now. After any other error the write is
            dropped with a warning: the server will never take it, and it would hold up all later ones.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self, address: str, is_away: Callable[[Exception], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = address
        self._is_away = is_away
        self._clock = clock
        self._waiting: deque[Callable[[], None]] = deque()
        self._retry_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, write: Callable[[], None]) -> None:
        """Make a write after all earlier ones, now if the server answers."""
        self._waiting.append(write)
        if self._retry_at is None or self._clock() >= self._retry_at:
            self.flush()

    def flush(self) -> None:
        """Make every waiting write, up to the first that the server does not answer."""
        while self._waiting:
            try:
                self._waiting[0]()
            except Exception as error:  # whatever a client library raises, a search must not end because of it
                if self._is_away(error):
                    self._wait(error)
                    return
                logger.warning("%s did not take a write, which is dropped: %s", self._address, error)
            self._waiting.popleft()
        self._retry_at = None

    def _wait(self, error: Exception) -> None:
        if self._retry_at is None:  # said once an outage
            logger.warning("%s does not answer; what is to be written is kept meanwhile: %s", self._address, error)
        self._retry_at = self._clock() + RETRY_AFTER_S
