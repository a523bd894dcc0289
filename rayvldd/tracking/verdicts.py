"""Classification of errors of tracking clients: retry the write, or drop it."""

from typing import Any

from mlflow.exceptions import MlflowException

from rayvldd.tracking.outbox import Verdict

_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes that are temporary. All others from 400 are permanent: 401, 403, 404, 409, 501."""

_UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, UnicodeError)
"""Permanent errors of files that cannot be read, or written to a folder of artifacts."""


class PermanentError(Exception):
    """A write that can never succeed."""


def verdict_of(error: Exception) -> Verdict:
    """Classify an error and its causes, because clients wrap the errors of other libraries."""
    for one in _with_causes(error):
        if isinstance(one, (PermanentError, *_UNREADABLE)):
            return Verdict.REFUSED
        status = _status_of(one)
        if status is not None:
            return Verdict.AWAY if status in _PASSING else Verdict.REFUSED
        if isinstance(one, OSError):  # connections, time-outs and requests' errors are OSErrors; so is a full disk
            return Verdict.AWAY
        if type(one).__module__.startswith("botocore."):
            return _verdict_of_botocore(one)
    return Verdict.UNEXPECTED


def _with_causes(error: BaseException) -> list[BaseException]:
    """An error followed by its causes; wrappers without a verdict are skipped."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def _status_of(error: BaseException) -> int | None:
    """Status code of the HTTP response in an error."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:  # requests'
        status = getattr(response, "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _verdict_of_botocore(error: BaseException) -> Verdict:
    from botocore.exceptions import ConnectionError as NotConnectedError
    from botocore.exceptions import HTTPClientError

    from rayvldd.storage.s3_errors import is_about_credentials

    if isinstance(error, HTTPClientError | NotConnectedError):
        return Verdict.AWAY
    return Verdict.REFUSED if is_about_credentials(error) else Verdict.UNEXPECTED
