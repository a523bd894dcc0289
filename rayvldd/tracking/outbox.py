"""Writes to a server that may be away for a while: by one thread, none lost, nobody kept waiting."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from rayvldd.errors import message_of

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
"""After this time a server that did not answer is asked again; then after twice as long, and so on."""
LONGEST_RETRY_S = 30.0
"""The longest time between two attempts."""
MOST_ROWS = 1000
"""Rows of one write: what MLflow takes in a batch."""
_UNEXPECTED_TRIES = 5
"""Attempts at a write that fails for a reason that is not known to pass."""


class Verdict(Enum):
    """What an error says of a write."""

    AWAY = auto()
    """The server cannot be reached now: the write is kept until it can."""
    REFUSED = auto()
    """The server will never take the write, or what is to be written cannot be read."""
    UNEXPECTED = auto()
    """Neither is known: a few attempts are made, and then the write must not hold up the later ones."""


@dataclass(frozen=True)
class Dropped:
    """A write that was given up."""

    lane: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True, eq=False)
class _Write:
    lane: str
    do: Callable[..., None]
    rows: Sequence[Any] | None
    what: str


class Outbox:
    """Makes writes in a thread of its own; keeps them and tries again while the server does not answer.

    There is one thread at most, and none while nothing waits, so a database behind it has one writer. Writes of one
    lane are made in their order. Rows that wait in a lane are written together: what an outage has piled up is a few
    requests, not one a report.

    Args:
        address: The server, for messages.
        verdict: What an error says of the write that raised it.
        first_retry_s: Seconds before the first of the further attempts.
    """

    def __init__(
        self, address: str, verdict: Callable[[Exception], Verdict], first_retry_s: float = FIRST_RETRY_S
    ) -> None:
        self._address = address
        self._verdict = verdict
        self._first_retry_s = first_retry_s
        self.dropped: list[Dropped] = []
        """Writes that were given up, each logged when it was."""
        self._waiting: deque[_Write] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._singly = 0
        """Writes that are made one by one, as the server has refused them together."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, lane: str, do: Callable[..., None], rows: Sequence[Any] | None = None, what: str = "") -> None:
        """Have a write made after all earlier ones of its lane.

        Args:
            lane: What the write is about, e.g. a trial.
            do: Makes the write; it may be called again after it failed. With rows, it is called with a list of them.
            rows: What may be written together with the rows before and after it.
            what: The write by name, for the message when it is given up.
        """
        with self._changed:
            self._waiting.append(_Write(lane, do, rows, what or f"a write of {lane or 'the study'}"))
            if self._thread is None:
                # A daemon: after Ctrl-C nobody waits for a server that does not answer.
                thread = threading.Thread(target=self._work, name="rayvldd tracking", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no room for one more now; the next write tries again
                    logger.warning("%s: what is to be written waits: %s", self._address, error)
                else:
                    self._thread = thread

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is written, and say whether it is."""
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
                    self._waiting.remove(write)
                self._changed.notify_all()

    def _log_outage(self, verdict: Verdict, error: Exception) -> None:
        trouble = "does not answer" if verdict is Verdict.AWAY else "did not take a write"
        logger.warning("%s %s; what is to be written is kept meanwhile: %s", self._address, trouble, message_of(error))

    def _verdict_of(self, error: Exception) -> Verdict:
        try:
            return self._verdict(error)
        except Exception:  # an error so odd that it cannot be looked at; the thread must live on
            return Verdict.UNEXPECTED

    def _drop(self, write: _Write, error: Exception) -> None:
        """Give a write up; of many that fail alike, one is logged."""
        dropped = Dropped(write.lane, write.what, message_of(error))
        if all(before.reason != dropped.reason for before in self.dropped):
            logger.warning("%s did not take a write, which is dropped: %s", self._address, dropped)
        self.dropped.append(dropped)

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
