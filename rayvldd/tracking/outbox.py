"""Writes to a server that may be away for a while: by one thread, none lost, nobody kept waiting."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
"""After this time a server that did not answer is asked again; then after twice as long, and so on."""
LONGEST_RETRY_S = 30.0
"""The longest time between two attempts."""
MOST_ROWS = 1000
"""Rows of one write: what MLflow takes in a batch."""


@dataclass(frozen=True, eq=False)
class _Write:
    lane: str
    do: Callable[..., None]
    rows: Sequence[Any] | None


class Outbox:
    """Makes writes in a thread of its own; keeps them and tries again while the server does not answer.

    There is one thread at most, and none while nothing waits, so a database behind it has one writer. Writes of one
    lane are made in their order. Rows that wait in a lane are written together: what an outage has piled up is a few
    requests, not one a report.

    Args:
        address: The server, for messages.
        is_away: Whether an error means that the server cannot be reached now. After any other error the write is
            dropped with a warning: the server will never take it, and it would hold up all later ones.
        first_retry_s: Seconds before the first of the further attempts.
    """

    def __init__(
        self, address: str, is_away: Callable[[Exception], bool], first_retry_s: float = FIRST_RETRY_S
    ) -> None:
        self._address = address
        self._is_away = is_away
        self._first_retry_s = first_retry_s
        self._waiting: deque[_Write] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._singly = 0
        """Writes that are made one by one, as the server has refused them together."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, lane: str, do: Callable[..., None], rows: Sequence[Any] | None = None) -> None:
        """Have a write made after all earlier ones of its lane.

        Args:
            lane: What the write is about, e.g. a trial.
            do: Makes the write; it may be called again after it failed. With rows, it is called with a list of them.
            rows: What may be written together with the rows before and after it.
        """
        with self._changed:
            self._waiting.append(_Write(lane, do, rows))
            if self._thread is None:
                # A daemon: after Ctrl-C nobody waits for a server that does not answer.
                self._thread = threading.Thread(target=self._work, name="rayvldd tracking", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is written, and say whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def _work(self) -> None:
        retry_s = 0.0
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                taken = self._next()
            error = _error_of(taken)
            if error is not None and self._is_away(error):
                if not retry_s:  # said once an outage
                    logger.warning(
                        "%s does not answer; what is to be written is kept meanwhile: %s", self._address, error
                    )
                retry_s = min(max(2 * retry_s, self._first_retry_s), LONGEST_RETRY_S)
                time.sleep(retry_s)
                continue
            retry_s = 0.0
            if error is not None and len(taken) > 1:
                self._singly = len(taken)
                continue
            if error is not None:
                logger.warning("%s did not take a write, which is dropped: %s", self._address, error)
            with self._changed:
                self._singly = max(self._singly - 1, 0)
                for write in taken:
                    self._waiting.remove(write)
                self._changed.notify_all()

    def _next(self) -> list[_Write]:
        """The first write, with those of its lane whose rows go with it."""
        first = self._waiting[0]
        taken = [first]
        if first.rows is None or self._singly:
            return taken
        rows = len(first.rows)
        for write in list(self._waiting)[1:]:
            if write.lane != first.lane:
                continue
            if write.rows is None or rows + len(write.rows) > MOST_ROWS:
                break
            taken.append(write)
            rows += len(write.rows)
        return taken


def _error_of(taken: Sequence[_Write]) -> Exception | None:
    """Make the write; whatever a client library raises, a search must not end because of it."""
    first = taken[0]
    try:
        if first.rows is None:
            first.do()
        else:
            first.do([row for write in taken for row in write.rows or ()])
    except Exception as error:
        return error
    return None
