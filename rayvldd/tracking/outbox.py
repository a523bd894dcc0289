"""Queue of writes to a server that may be temporarily unavailable: written by one thread, without blocking callers."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from rayvldd.errors import message_of

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
"""Seconds before the first retry if the server did not answer; doubled after every attempt."""
LONGEST_RETRY_S = 30.0
"""Maximum seconds between two attempts."""
MOST_ROWS = 1000
"""Maximum number of rows per write: MLflow's limit for a batch."""
_UNEXPECTED_TRIES = 5
"""Attempts at a write that fails for an unknown reason."""


class Verdict(Enum):
    """Classification of an error of a write."""

    AWAY = auto()
    """The server cannot be reached now: the write is kept until it can."""
    REFUSED = auto()
    """The server will never accept the write, or its data cannot be read."""
    UNEXPECTED = auto()
    """Unknown: a few attempts are made, then the write is dropped so that it does not delay later ones."""


@dataclass(frozen=True)
class Dropped:
    """A write that was dropped after an error."""

    lane: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True, eq=False)
class _Write:
    lane: str
    do: Callable[..., None]
    rows: Sequence[object] | None
    what: str


class Outbox:
    """Performs writes in a background thread, and keeps and retries them while the server does not answer.

    There is at most one thread, and none while the queue is empty, so a database has a single writer. Writes of one
    lane are performed in order. Waiting rows of a lane are combined, so that after an outage a few requests are
    sufficient.

    Args:
        address: The server, for messages.
        verdict: Classifies the error of a write.
        first_retry_s: Seconds before the first retry.
    """

    def __init__(
        self, address: str, verdict: Callable[[Exception], Verdict], first_retry_s: float = FIRST_RETRY_S
    ) -> None:
        self._address = address
        self._verdict = verdict
        self._first_retry_s = first_retry_s
        self.dropped: list[Dropped] = []
        """Dropped writes; each was logged when it was dropped."""
        self._waiting: OrderedDict[_Write, None] = OrderedDict()
        """In order of arrival. Of a long queue, written rows are removed one by one: each takes constant time."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._singly = 0
        """Writes that are performed one by one, because the server rejected their combination."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, lane: str, do: Callable[..., None], rows: Sequence[object] | None = None, what: str = "") -> None:
        """Queue a write after all earlier writes of its lane.

        Args:
            lane: Subject of the write, e.g. a trial.
            do: Performs the write; it may be called again after a failure. With rows, it is called with a list of rows.
            rows: Rows that may be combined with the preceding and following rows of the lane.
            what: Name of the write, for the message if it is dropped.
        """
        with self._changed:
            self._waiting[_Write(lane, do, rows, what or f"a write of {lane or 'the study'}")] = None
            if self._thread is None:
                # A daemon thread: the process can end after Ctrl-C although the server does not answer.
                thread = threading.Thread(target=self._work, name="rayvldd tracking", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no further thread can be started now; the next write tries again
                    logger.warning("%s: writes are delayed: %s", self._address, error)
                else:
                    self._thread = thread

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is written or the timeout expires; return whether everything is written."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout_s)

    def _work(self) -> None:
        retry_s, tries = 0.0, 0
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                taken = self._next()
            error = _error_of(taken)
            if error is not None:
                verdict = self._verdict_of(error)
                tries += 1
                if verdict is Verdict.AWAY or (verdict is Verdict.UNEXPECTED and tries < _UNEXPECTED_TRIES):
                    if not retry_s:  # logged once per outage
                        self._log_outage(verdict, error)
                    retry_s = min(max(2 * retry_s, self._first_retry_s), LONGEST_RETRY_S)
                    time.sleep(retry_s)
                    continue
                if len(taken) > 1:
                    self._singly, retry_s, tries = len(taken), 0.0, 0
                    continue
                self._drop(taken[0], error)
            retry_s, tries = 0.0, 0
            with self._changed:
                self._singly = max(self._singly - 1, 0)
                for write in taken:
                    del self._waiting[write]
                self._changed.notify_all()

    def _log_outage(self, verdict: Verdict, error: Exception) -> None:
        trouble = "does not answer" if verdict is Verdict.AWAY else "did not take a write"
        logger.warning("%s %s; writes are queued in the meantime: %s", self._address, trouble, message_of(error))

    def _verdict_of(self, error: Exception) -> Verdict:
        try:
            return self._verdict(error)
        except Exception:  # the error cannot be inspected; the thread must continue
            return Verdict.UNEXPECTED

    def _drop(self, write: _Write, error: Exception) -> None:
        """Drop a write; of many with the same error, only the first is logged."""
        dropped = Dropped(write.lane, write.what, message_of(error))
        if all(before.reason != dropped.reason for before in self.dropped):
            logger.warning("%s did not take a write, which is dropped: %s", self._address, dropped)
        self.dropped.append(dropped)

    def _next(self) -> list[_Write]:
        """The first write, with those of its lane whose rows can be combined with it."""
        waiting = iter(self._waiting)
        first = next(waiting)
        taken = [first]
        if first.rows is None or self._singly:
            return taken
        rows = len(first.rows)
        for write in waiting:
            if write.lane != first.lane:
                continue
            if write.rows is None or rows + len(write.rows) > MOST_ROWS:
                break
            taken.append(write)
            rows += len(write.rows)
        return taken


def _error_of(taken: Sequence[_Write]) -> Exception | None:
    """Perform the write and return its error; no error of a client library may end a search."""
    first = taken[0]
    try:
        if first.rows is None:
            first.do()
        else:
            first.do([row for write in taken for row in write.rows or ()])
    except Exception as error:
        return error
    return None
