"""Storage in a bucket of S3 or of an S3-compatible service.

Address and credentials come from boto3: ``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ``AWS_MAX_ATTEMPTS``,
``~/.aws/config`` and instance roles work as usual. This package writes no keys to its files.

Large files are transferred in parallel parts in both directions; S3 verifies the CRC32 of each part. A file appears in
the bucket after its last part has arrived. Readers map a local copy, which is downloaded once per machine. Its name
contains the ETag of its version, so a replaced file is never confused with an earlier one.

``swap`` uses conditional writes (``If-Match`` and ``If-None-Match`` of PutObject), which S3 supports since 2024. An
endpoint that reports them as unsupported is refused.
"""

import functools
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.loaders import Loader, create_loader
from filelock import FileLock

from rayvldd.errors import StoreError
from rayvldd.storage.names import path_inside
from rayvldd.storage.new_files import local_fault, unfinished_file
from rayvldd.storage.s3_errors import is_about_credentials, store_error
from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_source import MappedTensors, TensorSource
from rayvldd.user_paths import user_path

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

_ATTEMPTS = 6
"""Attempts per request, unless boto3's configuration sets another number; the delay doubles up to 20 s."""

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0
"""Time without data on a connection after which a request is retried."""

_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 8
"""Parallel parts of a transfer, to use a fast network; 8 parts of 16 MiB need at most 128 MiB of memory."""

_ABANDONED_AFTER = timedelta(days=1)
"""Age, by the clock of S3, at which an unfinished multipart upload is considered abandoned."""

_WRITER = "rayvldd-writer"
"""Metadata key of an object: a token that identifies the call that wrote it."""

_CUT_OFF = (ConnectionError, FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
"""Errors of a truncated or damaged response body; boto3 does not retry after it has received the headers."""

_MISSING = ("404", "NoSuchKey", "NotFound")
_LOST_RACE = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict", *_MISSING)
"""Response codes of a conditional write that lost against another writer or a deletion."""


class S3Storage:
    """Files under a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, local_folder: str | Path, *, endpoint_url: str | None = None) -> None:
        """Describe the storage; connections are opened on first use.

        Args:
            bucket: Name of an existing bucket.
            prefix: Prefix of all keys; may be empty.
            local_folder: Folder on a local disk for the local copies, shared by the processes of this machine.
            endpoint_url: ``http(s)://HOST:PORT`` of the service; default: boto3's configuration.
        """
        self._bucket, self._prefix = bucket, prefix.strip("/")
        self._endpoint_url = endpoint_url
        # Two endpoints may have buckets with the same name.
        service = sha256((endpoint_url or os.environ.get("AWS_ENDPOINT_URL", "")).encode()).hexdigest()[:8]
        self._copies = user_path(local_folder).absolute() / service / bucket / self._prefix
        self._made: tuple[int, S3Client] | None = None
        self._making = threading.Lock()

    def __getstate__(self) -> dict[str, str | Path | None]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_made", "_making")}

    def __setstate__(self, state: dict[str, str | Path | None]) -> None:
        self.__dict__.update(state, _made=None, _making=threading.Lock())

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def names(self, folder: str = "") -> list[str]:
        """Names of all files below a folder, sorted."""
        top = self._key("")
        with self.translating_errors(folder, "listed"):
            pages = self._client().get_paginator("list_objects_v2")
            found = [
                entry["Key"].removeprefix(top)
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._key(f"{folder}/" if folder else ""))
                for entry in page.get("Contents", [])
            ]
        return sorted(name for name in found if not name.endswith("/"))  # some tools create empty objects for folders

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if it does not exist."""
        head = self._head(name)
        return None if head is None else int(head["ContentLength"])

    def read(self, name: str) -> bytes | None:
        """Read a small file; None if it does not exist."""
        return self._get(name)[0]

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self.translating_errors(name, "written"):
            self._put(name, content, secrets.token_hex(8))

    def check_writable(self) -> None:
        """Check that an object can be written and deleted.

        Raises:
            OutageError: if not.
        """
        name = f"write_test_{secrets.token_hex(8)}"
        self.write(name, b"")
        self.delete(name)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old``."""
        writer = secrets.token_hex(8)
        # Repeated only if others write at the same time and the content is ``old`` again afterwards.
        for _ in range(_ATTEMPTS):
            content, etag = self._get(name) if old is not None else (None, "")
            if content != old:
                return False
            condition = {"IfNoneMatch": "*"} if old is None else {"IfMatch": etag}
            with self.translating_errors(name, "written"):
                if self._put(name, new, writer, **condition):
                    return True
            # boto3 repeats a write whose response was lost; the repetition then fails because the first one succeeded.
            head = self._head(name)
            if head is not None and head["Metadata"].get(_WRITER) == writer:
                return True
            if old is None and head is not None:
                return False
        return False

    def delete(self, name: str) -> None:
        """Remove a file and its local copy."""
        with self.translating_errors(name, "deleted"):
            self._client().delete_object(Bucket=self._bucket, Key=self._key(name))
        self.forget_local_copy(name)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Yield a local path to write to; the file is uploaded when the block ends and becomes the local copy."""
        with unfinished_file(self._copies / ".new", name) as path:
            yield path
            writer = secrets.token_hex(8)
            with self.translating_errors(name, "uploaded"):
                self._abort_abandoned(name)
                self._client().upload_file(
                    str(path),
                    self._bucket,
                    self._key(name),
                    ExtraArgs={"ChecksumAlgorithm": "CRC32", "Metadata": {_WRITER: writer}},
                    Config=_transfer_config(),
                )
            head = self._head(name)
            # If another process has replaced it meanwhile, the bucket holds a different version from this file.
            if head is not None and head["Metadata"].get(_WRITER) == writer:
                self._keep_copy(name, head["ETag"], path)

    def open_tensors(self, name: str) -> TensorSource:
        """Map the local copy of a safetensors file, after downloading it if necessary."""
        while True:
            head = self._head(name)
            if head is None:
                raise StoreError(
                    f"{self._address(name)}: is not there; allowed: a finished file",
                    next_command="rayvldd experts STUDY.yaml (makes missing ones)",
                )
            copy = self._copy(name, head["ETag"])
            if self._is_whole(copy, head):
                return MappedTensors(copy)
            with self._locked(name):
                # Another process may have downloaded it while this one waited for the lock.
                if not self._is_whole(copy, head):
                    self._download(name, copy, head["ETag"])

    def forget_local_copy(self, name: str) -> bool:
        """Delete the local copies of a file; return whether there were any."""
        folder = self._copy_folder(name)
        copies = list(folder.glob("*.safetensors"))
        if folder.is_dir():
            with self._locked(name):
                for file in folder.glob("*.safetensors"):
                    file.unlink(missing_ok=True)
        return bool(copies)

    # -- requests

    def _client(self) -> "S3Client":
        """Return the client of this process; a forked process must not use the connections of its parent."""
        with self._making:
            if self._made is None or self._made[0] != os.getpid():
                core = botocore.session.Session()
                core.register_component("data_loader", _api_descriptions())
                attempts = core.get_config_variable("max_attempts") or _ATTEMPTS
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": int(attempts)},
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    read_timeout=_READ_TIMEOUT_S,
                    max_pool_connections=2 * _PARTS_AT_ONCE,
                )
                session = boto3.Session(botocore_session=core)
                self._made = os.getpid(), session.client("s3", endpoint_url=self._endpoint_url, config=config)
            return self._made[1]

    def _get(self, name: str) -> tuple[bytes | None, str]:
        """Content and ETag of one version of a small file."""
        with self.translating_errors(name, "read"):
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    answer = self._client().get_object(Bucket=self._bucket, Key=self._key(name), ChecksumMode="ENABLED")
                    with closing(answer["Body"]) as body:
                        return body.read(), answer["ETag"]
                except ClientError as error:
                    if _code(error) not in _MISSING:
                        raise
                    return None, ""
                except _CUT_OFF:
                    if not attempts_left:
                        raise
        raise AssertionError("the last try returns or raises")

    def _put(self, name: str, content: bytes, writer: str, **condition: str) -> bool:
        """Write a small file; return False if the condition does not hold."""
        try:
            self._client().put_object(
                Bucket=self._bucket,
                Key=self._key(name),
                Body=content,
                ChecksumAlgorithm="CRC32",
                Metadata={_WRITER: writer},
                **condition,  # type: ignore[arg-type]  # IfMatch or IfNoneMatch
            )
        except ClientError as error:
            if condition and _code(error) in _LOST_RACE:
                return False
            raise
        return True

    def _head(self, name: str) -> "HeadObjectOutputTypeDef | None":
        """Return the metadata of an object; None if it does not exist."""
        with self.translating_errors(name, "read"):
            try:
                return self._client().head_object(Bucket=self._bucket, Key=self._key(name))
            except ClientError as error:
                # A response to HEAD has no body: only another request shows whether the file or the bucket is missing,
                # or the reason why the credentials are rejected.
                self._client().list_objects_v2(Bucket=self._bucket, Prefix=self._key(name), MaxKeys=1)
                if _code(error) not in _MISSING:
                    raise
        return None

    def _download(self, name: str, copy: Path, etag: str) -> None:
        """Write the copy of one version, completely or not at all; the caller holds its lock."""
        part = copy.with_name(f".{copy.name}.part")
        for left in copy.parent.glob(f"{part.name}*"):  # boto3 appends letters of its own until it is done
            left.unlink(missing_ok=True)
        try:
            with self.translating_errors(name, "downloaded"):
                self._client().download_file(
                    self._bucket,
                    self._key(name),
                    str(part),
                    ExtraArgs={"ChecksumMode": "ENABLED"},
                    Config=_transfer_config(),
                )
            # boto3 ensures that all parts belong to one version; a second request shows whether it is the expected one.
            head = self._head(name)
            if head is not None and head["ETag"] == etag:
                part.replace(copy)
        finally:
            part.unlink(missing_ok=True)

    def _abort_abandoned(self, name: str) -> None:
        """Abort abandoned uploads of this file: S3 does not list them as objects, but bills them until aborted."""
        client = self._client()
        # Some services lack these calls and some credentials do not permit them; the upload works without them.
        with suppress(ClientError, KeyError):
            answer = client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._key(name))
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            for upload in answer.get("Uploads", []):
                if upload["Key"] == self._key(name) and now - upload["Initiated"] > _ABANDONED_AFTER:
                    client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    # -- addresses and local copies

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _address(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri

    def _copy_folder(self, name: str) -> Path:
        return path_inside(self._copies, name)

    def _copy(self, name: str, etag: str) -> Path:
        return self._copy_folder(name) / f"{etag.strip(chr(34))}.safetensors"

    @staticmethod
    def _is_whole(copy: Path, head: "HeadObjectOutputTypeDef") -> bool:
        """Whether a copy is complete: a power failure may leave an incomplete file under its final name."""
        return copy.is_file() and copy.stat().st_size == head["ContentLength"]

    def _keep_copy(self, name: str, etag: str, path: Path) -> None:
        """Move the uploaded file to the local copies, replacing the previous version."""
        copy = self._copy(name, etag)
        with self._locked(name):
            for file in copy.parent.glob("*.safetensors"):
                file.unlink(missing_ok=True)
            path.replace(copy)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Lock a file so that one process of the machine at a time downloads it or deletes its copies."""
        folder = self._copy_folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                yield
        except OSError as error:
            raise local_fault(self._copies, error) from error

    @contextmanager
    def translating_errors(self, name: str, done: str) -> Iterator[None]:
        """Translate errors of boto3 into a ``StoreError`` with address, reason and next command."""
        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error, ConnectionError, TimeoutError, ValueError) as error:
            self._refuse(name, done, error)

    def _refuse(self, name: str, done: str, error: Exception) -> NoReturn:
        # boto3 wraps the last error of a transfer in an exception of its own.
        cause = getattr(error, "last_exception", error)
        if isinstance(cause, Boto3Error) and isinstance(cause.__context__, Exception):
            cause = cause.__context__
        if is_about_credentials(cause):
            self._made = None  # so that the next call picks up renewed credentials
        raise store_error(self._address(name), done, cause, self._endpoint_url) from error


@functools.cache
def _api_descriptions() -> Loader:
    """Load boto3's API descriptions once per process: parsing them is most of the cost of creating a client."""
    return create_loader()


def _transfer_config() -> TransferConfig:
    return TransferConfig(
        multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


if TYPE_CHECKING:
    _storage: Storage = S3Storage("", "", "")
