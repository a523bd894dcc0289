"""What an error of a tracking client means for the write: kept, given up, or tried a few times."""

from typing import Any

import pytest
import requests
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ParamValidationError
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import NOT_IMPLEMENTED, PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE, UNAUTHENTICATED

from rayvldd.tracking.outbox import Verdict
from rayvldd.tracking.verdicts import verdict_of


def s3(status: int) -> ClientError:
    response: Any = {
        "Error": {"Code": str(status)},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }  # what is read of it
    return ClientError(response, "PutObject")


def http(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def wrapped(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception:
            raise S3UploadFailedError("Failed to upload")  # noqa: B904  # as boto3 does it
    except S3UploadFailedError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (MlflowException("API request failed: connection refused"), Verdict.AWAY),
        (MlflowException("x", error_code=TEMPORARILY_UNAVAILABLE), Verdict.AWAY),
        (MlflowException("x", error_code=UNAUTHENTICATED), Verdict.REFUSED),
        (MlflowException("x", error_code=PERMISSION_DENIED), Verdict.REFUSED),
        (MlflowException("x", error_code=NOT_IMPLEMENTED), Verdict.REFUSED),
        (RestException({"error_code": "RESOURCE_CONFLICT", "message": "x"}), Verdict.REFUSED),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}), Verdict.REFUSED),
        (requests.ConnectionError("no route"), Verdict.AWAY),
        (http(503), Verdict.AWAY),
        (http(429), Verdict.AWAY),
        (http(403), Verdict.REFUSED),
        (http(501), Verdict.REFUSED),
        (s3(503), Verdict.AWAY),
        (s3(403), Verdict.REFUSED),
        (wrapped(s3(403)), Verdict.REFUSED),
        (wrapped(s3(500)), Verdict.AWAY),
        (wrapped(EndpointConnectionError(endpoint_url="http://x")), Verdict.AWAY),
        (NoCredentialsError(), Verdict.REFUSED),
        (ParamValidationError(report="x"), Verdict.UNEXPECTED),
        (FileNotFoundError(2, "No such file"), Verdict.REFUSED),
        (PermissionError(13, "Permission denied"), Verdict.REFUSED),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), Verdict.REFUSED),
        (OSError(28, "No space left on device"), Verdict.AWAY),
        (KeyError("AWS_PROFILE"), Verdict.UNEXPECTED),
        (RuntimeError("dictionary changed size during iteration"), Verdict.UNEXPECTED),
    ],
    ids=repr,
)
def test_verdict(error: Exception, verdict: Verdict) -> None:
    assert verdict_of(error) is verdict
