"""Files in a bucket of S3, or of anything that speaks its protocol.

Address and credentials are boto3's own business: ``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, ``AWS_MAX_ATTEMPTS``,
``~/.aws/config`` and the roles of machines work as everywhere else, and no key enters a file of ours.

Large files go both ways in parts, in parallel, each part with a CRC32 that S3 compares. A file appears in the bucket
when its last part is there. Readers map a local copy, which is downloaded once a machine and carries the ETag of its
version in its name, so a file that was replaced is never mistaken for the one before.

``swap`` rests on conditional writes (``If-Match`` and ``If-None-Match`` of PutObject). S3 has them since 2024; an
endpoint that answers that it does not know them is refused.
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
from typing import TYPE_CHECKING, Any, NoReturn

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
from rayvldd.storage.new_files import local_fault, unfinished_file
from rayvldd.storage.s3_errors import is_about_credentials, store_error
from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_files import MappedTensors, TensorSource

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ATTEMPTS = 6
"""Tries for one request, unless boto3's own configuration says otherwise; the waits between them double up to 20 s."""

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0
"""Silence on a connection after which a request is tried again."""

_PART_BYTES = 16 * 2**20
_PARTS_AT_ONCE = 8
"""A fast network needs several connections; 8 parts of 16 MiB are 128 MiB of memory at most."""

_ABANDONED_AFTER = timedelta(days=1)
"""An upload in parts that began this long ago, by the clock of S3, belongs to a process that died."""

_WRITER = "rayvldd-writer"
"""Metadata of an object: a token of the call that wrote it."""

_CUT_OFF = (ConnectionError, FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
"""What a body that ends too early, or damaged, raises: it comes after the answer's head, so boto3 does not retry."""

_MISSING = ("404", "NoSuchKey", "NotFound")
_LOST_RACE = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict", *_MISSING)
"""Answers to a conditional write: somebody else wrote, is writing, or deleted."""


class S3Storage:
    """Files below a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str, local_folder: str | Path, *, endpoint_url: str | None = None) -> None:
        """Name a storage; nothing is connected before it is used.

        Args:
            bucket: The bucket; it has to exist.
            prefix: The part of the keys before the names; may be empty.
            local_folder: On a disk of this machine: holds the local copies, shared by its processes.
            endpoint_url: ``http(s)://HOST:PORT`` of the service; default: what boto3 finds in its configuration.
        """
        self._bucket, self._prefix = bucket, prefix.strip("/")
        self._endpoint_url = endpoint_url
        # Two endpoints may have buckets of one name.
        service = sha256((endpoint_url or os.environ.get("AWS_ENDPOINT_URL", "")).encode()).hexdigest()[:8]
        self._copies = Path(local_folder).expanduser().absolute() / service / bucket / self._prefix
        self._made: tuple[int, S3Client] | None = None
        self._making = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_made", "_making")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _made=None, _making=threading.Lock())

    @property
    def uri(self) -> str:
        """``s3://BUCKET/PREFIX``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def names(self, folder: str = "") -> list[str]:
        """The names of all files below a folder, sorted."""
        top = self._key("")
        with self.translating_errors(folder, "listed"):
            pages = self._client().get_paginator("list_objects_v2")
            found = [
                entry["Key"].removeprefix(top)
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._key(f"{folder}/" if folder else ""))
                for entry in page.get("Contents", [])
            ]
        return sorted(name for name in found if not name.endswith("/"))  # some tools mark folders by empty objects

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where it is not there."""
        head = self._head(name)
        return None if head is None else int(head["ContentLength"])

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where it is not there."""
        return self._get(name)[0]

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self.translating_errors(name, "written"):
            self._put(name, content, secrets.token_hex(8))

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Write a small file if it still holds ``old``."""
        writer = secrets.token_hex(8)
        # More than one round only where others write at the same time and ``old`` is there again after it.
        for _ in range(_ATTEMPTS):
            content, etag = self._get(name) if old is not None else (None, "")
            if content != old:
                return False
            condition = {"IfNoneMatch": "*"} if old is None else {"IfMatch": etag}
            with self.translating_errors(name, "written"):
                if self._put(name, new, writer, **condition):
                    return True
            # A write whose answer was lost is sent again by boto3, and then refused because of itself.
            head = self._head(name)
            if head is not None and head["Metadata"].get(_WRITER) == writer:
                return True
            if old is None and head is not None:
                return False
        return False

    def delete(self, name: str) -> None:
        """Remove a file, and the copy that this machine keeps of it."""
        with self.translating_errors(name, "deleted"):
            self._client().delete_object(Bucket=self._bucket, Key=self._key(name))
        self.forget_local_copy(name)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Give a local path to write to; the file is uploaded when the block ends, and kept as the local copy."""
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
            # Where another process was quicker to replace it, the version in the bucket is not the one in our hands.
            if head is not None and head["Metadata"].get(_WRITER) == writer:
                self._keep_copy(name, head["ETag"], path)

    def open_tensors(self, name: str) -> TensorSource:
        """Map a safetensors file from its local copy, which is downloaded if this machine has none."""
        while True:
            head = self._head(name)
            if head is None:
                raise StoreError(
                    f"{self._address(name)}: is not there; allowed: a finished file",
                    next_command="rayvldd experts STUDY.yaml (makes what is missing)",
                )
            copy = self._copy(name, head["ETag"])
            if self._is_whole(copy, head):
                return MappedTensors(copy)
            with self._locked(name):
                # Another process may have downloaded it while this one waited for the lock.
                if not self._is_whole(copy, head):
                    self._download(name, copy, head["ETag"])

    def forget_local_copy(self, name: str) -> bool:
        """Drop the copies that this machine keeps of a file; return whether there were any."""
        folder = self._copy_folder(name)
        copies = list(folder.glob("*.safetensors"))
        if folder.is_dir():
            with self._locked(name):
                for file in folder.glob("*.safetensors"):
                    file.unlink(missing_ok=True)
        return bool(copies)

    # -- requests

    def _client(self) -> "S3Client":
        """The connections of this process: a forked one must not talk on those of its parent."""
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
        """Write a small file; return False where the condition does not hold."""
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

    def _head(self, name: str) -> Any:
        """What S3 knows of a file; None where it is not there."""
        with self.translating_errors(name, "read"):
            try:
                return self._client().head_object(Bucket=self._bucket, Key=self._key(name))
            except ClientError as error:
                # An answer to HEAD has no body: whether file or bucket is missing, or what is wrong with the
                # credentials, only another question tells.
                self._client().list_objects_v2(Bucket=self._bucket, Prefix=self._key(name), MaxKeys=1)
                if _code(error) not in _MISSING:
                    raise
        return None

    def _download(self, name: str, copy: Path, etag: str) -> None:
        """Write the copy of one version, whole or not at all; the caller holds its lock."""
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
            # boto3 sees to it that all parts are of one version. Which one it was, S3 says.
            head = self._head(name)
            if head is not None and head["ETag"] == etag:
                os.replace(part, copy)
        finally:
            part.unlink(missing_ok=True)

    def _abort_abandoned(self, name: str) -> None:
        """Abort uploads of this file that died half-way: S3 shows them to nobody and bills them for ever."""
        client = self._client()
        # Some services do not know these calls and some credentials may not make them; the upload does not need them.
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
        return self._copies / name

    def _copy(self, name: str, etag: str) -> Path:
        return self._copy_folder(name) / f"{etag.strip(chr(34))}.safetensors"

    @staticmethod
    def _is_whole(copy: Path, head: Any) -> bool:
        """Whether a copy is there in full: a power cut may leave a name on a file that is not."""
        return copy.is_file() and copy.stat().st_size == head["ContentLength"]

    def _keep_copy(self, name: str, etag: str, path: Path) -> None:
        """Let what was uploaded be the local copy, in the place of the version before."""
        copy = self._copy(name, etag)
        with self._locked(name):
            for file in copy.parent.glob("*.safetensors"):
                file.unlink(missing_ok=True)
            os.replace(path, copy)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process of the machine at a time downloads a file or drops its copies."""
        folder = self._copy_folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                yield
        except OSError as error:
            raise local_fault(self._copies, error) from error

    @contextmanager
    def translating_errors(self, name: str, done: str) -> Iterator[None]:
        """Turn whatever boto3 raises into an error that says address, reason and way out."""
        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error, ConnectionError, TimeoutError, ValueError) as error:
            self._refuse(name, done, error)

    def _refuse(self, name: str, done: str, error: Exception) -> NoReturn:
        # boto3 packs the error that it got at the end of a transfer into one of its own.
        cause = getattr(error, "last_exception", error)
        if isinstance(cause, Boto3Error) and isinstance(cause.__context__, Exception):
            cause = cause.__context__
        if is_about_credentials(cause):
            self._made = None  # so that renewed ones are found by the next call
        raise store_error(self._address(name), done, cause, self._endpoint_url) from error


@functools.cache
def _api_descriptions() -> Loader:
    """boto3's descriptions of S3, parsed once a process: most of the 100 ms that a client takes to make."""
    return create_loader()


def _transfer_config() -> TransferConfig:
    return TransferConfig(
        multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


if TYPE_CHECKING:
    _storage: Storage = S3Storage("", "", "")
