"""The end of a record whose command failed or was interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager

from rayvldd.errors import OutageError
from rayvldd.tracking.protocol import Tracker


@contextmanager
def reporting_failure(tracker: Tracker) -> Iterator[None]:
    """Report a failure or an interruption to the tracker; after Ctrl-C or an outage the same command resumes.

    The block must hold the lock of the recorded study: the record of another process would be ended otherwise.
    """
    try:
        yield
    except BaseException as error:
        failed = isinstance(error, Exception) and not isinstance(error, OutageError)
        tracker.end_study("failed" if failed else "interrupted", {}, None)
        raise
