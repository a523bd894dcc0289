"""Translate errors of S3 into messages with a reason and a next command."""

import os

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from rayvldd.errors import OutageError

_AGAIN = "the same command again: finished work is kept"

_NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
_CREDENTIAL_CODES = (
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)

_BY_CODE = {
    "NoSuchBucket": ("a bucket that exists", "aws s3 mb s3://BUCKET, or correct the address; then the same command"),
    "AccessDenied": (
        "credentials with s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject on its objects",
        "aws sts get-caller-identity, to see whose credentials these are",
    ),
    "NotImplemented": (
        "a service that knows conditional writes, If-Match and If-None-Match of PutObject",
        "the same command with a folder, file:///PATH, or another service",
    ),
    "RequestTimeTooSkewed": ("a clock that is right to 15 minutes", "timedatectl, to see the clock of this machine"),
    "PermanentRedirect": ("the region that the bucket is in", "export AWS_REGION=REGION, then the same command"),
    "IllegalLocationConstraintException": (
        "the region that the bucket is in",
        "export AWS_REGION=REGION, then the same command",
    ),
}
"""By error code of a response: the allowed value and the next command."""


def store_error(address: str, done: str, error: BaseException, endpoint_url: str | None) -> OutageError:
    """Return the error to raise.

    Args:
        address: The file or folder, as users write it.
        done: Past participle of the failed operation: ``read``, ``uploaded``.
        error: Exception from boto3 or the operating system.
        endpoint_url: Address of the service, if the user gave one.
    """
    allowed, next_command = _way_out(error, endpoint_url)
    return OutageError(
        f"{address}: could not be {done}: {_reason(error)}; allowed: {allowed}", next_command=next_command
    )


def is_about_credentials(error: BaseException) -> bool:
    """Whether an error is caused by missing, invalid or expired credentials."""
    return isinstance(error, _NO_CREDENTIALS) or _code(error) in _CREDENTIAL_CODES


def _way_out(error: BaseException, endpoint_url: str | None) -> tuple[str, str]:
    if is_about_credentials(error):
        return (
            "credentials that boto3 finds and that are valid for the whole run",
            f"aws sso login, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; then {_AGAIN}",
        )
    code = {"403": "AccessDenied", "501": "NotImplemented"}.get(_code(error), _code(error))
    if code in _BY_CODE:
        return _BY_CODE[code]
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError | ValueError):
        endpoint = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return (
            f"a service that answers; the endpoint was {endpoint or 'the one of AWS'}",
            "curl -I ENDPOINT, to see whether it does; AWS_ENDPOINT_URL names another",
        )
    if isinstance(error, ParamValidationError):
        return (
            "s3://BUCKET/PREFIX, with 3 to 63 lower-case letters, digits, dots and dashes as BUCKET",
            "correct the address",
        )
    return (
        "a service and a network that answer within the tries that are made",
        f"{_AGAIN}; export AWS_MAX_ATTEMPTS=20 makes more tries",
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, ClientError):
        answer = error.response.get("ResponseMetadata", {})
        tries = answer.get("RetryAttempts", 0) + 1
        message = error.response.get("Error", {}).get("Message", "")
        times = f" to the last of {tries} tries" if tries > 1 else ""
        return f"S3 answered {answer.get('HTTPStatusCode', '')} {_code(error)} ({message}){times}"
    text = " ".join(str(error).split())
    return text if isinstance(error, BotoCoreError) and text else f"{type(error).__name__} {text}".strip()


def _code(error: BaseException) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
