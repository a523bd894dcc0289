"""What an error of a tracking client says of the write that raised it: try again, or give it up."""

from typing import Any

from mlflow.exceptions import MlflowException

from rayvldd.tracking.outbox import Verdict

_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of servers that may be others later. All further ones from 400 on stay: 401, 403, 404, 409, 501."""

_UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, UnicodeError)
"""What a file raises that cannot be read, or written below a folder of artifacts, whatever time passes."""


class PermanentError(Exception):
    """A write that can never be made."""


def verdict_of(error: Exception) -> Verdict:
    """Return what to do with a write; clients wrap the errors of others, so causes are looked at as well."""
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
    """An error, then what it was raised from; a wrapper without a verdict of its own is looked through."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def _status_of(error: BaseException) -> int | None:
    """The status of an HTTP answer that an error carries."""
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
