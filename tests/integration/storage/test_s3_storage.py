"""Files in a bucket: behaviour beyond the contract of storages, and all kinds of failures of S3."""

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.s3_server import Fault, S3Server
from safetensors.torch import save_file

from rayvldd.errors import StoreError
from rayvldd.storage.s3 import S3Storage

PARTS = 3
LARGE = torch.randint(0, 2**31, (PARTS * 5 * 2**18,), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
"""15 MiB: three parts of the smallest size that S3 takes, and a little more for the file's header."""


@pytest.fixture
def storage(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    monkeypatch.setattr("rayvldd.storage.s3._PART_BYTES", 5 * 2**20)
    return S3Storage("experts", "sets/of/mine", tmp_path / "local", endpoint_url=s3.url)


def elsewhere(storage: S3Storage, tmp_path: Path) -> S3Storage:
    """The same storage as another machine sees it."""
    return S3Storage("experts", "sets/of/mine", tmp_path / "other_machine", endpoint_url=storage._endpoint_url)


def put_large(storage: S3Storage, name: str = "expert.safetensors") -> None:
    with storage.new_file(name) as path:
        save_file({"image.0": LARGE}, path)


def files_below(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and not file.name.endswith(".lock"))


def unfinished_uploads(s3: S3Server) -> list[Any]:
    return list(s3.client.list_multipart_uploads(Bucket="experts").get("Uploads", []))


def test_large_files_travel_in_parts_with_checksums(s3: S3Server, storage: S3Storage, tmp_path: Path) -> None:
    put_large(storage)
    assert s3.seen("PUT", "partNumber=") == PARTS + 1
    head = s3.client.head_object(Bucket="experts", Key="sets/of/mine/expert.safetensors", ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] and head["ETag"].endswith(f'-{PARTS + 1}"')
    s3.requests.clear()
    assert torch.equal(elsewhere(storage, tmp_path).open_tensors("expert.safetensors").tensor("image.0"), LARGE)
    assert s3.seen("GET", "expert.safetensors") == PARTS + 1


def test_a_test_of_the_rights_leaves_nothing_behind(s3: S3Server, storage: S3Storage) -> None:
    storage.check_writable()
    assert s3.seen("PUT") == 1 and s3.seen("DELETE") == 1
    assert storage.names() == []


def test_the_machine_that_uploads_reads_its_own_copy(s3: S3Server, storage: S3Storage, tmp_path: Path) -> None:
    put_large(storage)
    s3.requests.clear()
    assert torch.equal(storage.open_tensors("expert.safetensors").tensor("image.0"), LARGE)
    assert s3.seen("GET") == 0
    assert len(files_below(tmp_path / "local")) == 1
    put_large(storage)
    storage.write("small", b"1")
    assert len(files_below(tmp_path / "local")) == 1, "one copy of a file, the latest"
    storage.delete("expert.safetensors")
    assert files_below(tmp_path / "local") == []


def test_a_machine_downloads_once(
    s3: S3Server, storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.new_file("expert") as path:
        save_file({"a": torch.ones(9)}, path)
    storages = [elsewhere(storage, tmp_path) for _ in range(8)]
    s3.faults.append(Fault("slow", "GET", "expert", seconds=0.3))
    # Counted here and not at the server: boto3 repeats a request whose connection breaks.
    downloads, download = [], S3Storage._download

    def counted(self: S3Storage, name: str, copy: Path, etag: str) -> None:
        downloads.append(name)
        download(self, name, copy, etag)

    monkeypatch.setattr(S3Storage, "_download", counted)
    with ThreadPoolExecutor(8) as pool:
        for source in pool.map(lambda storage: storage.open_tensors("expert"), storages):
            assert torch.equal(source.tensor("a"), torch.ones(9))
    assert downloads == ["expert"]


def test_a_copy_that_is_not_whole_is_downloaded_again(storage: S3Storage, tmp_path: Path) -> None:
    put_large(storage)
    other = elsewhere(storage, tmp_path)
    other.open_tensors("expert.safetensors")
    copy = next((tmp_path / "other_machine").rglob("*.safetensors/*.safetensors"))
    os.truncate(copy, 1000)
    left = copy.with_name(f".{copy.name}.part.aB12")
    left.write_bytes(b"of a process that was killed")
    assert torch.equal(other.open_tensors("expert.safetensors").tensor("image.0"), LARGE)
    assert not left.exists()


def test_a_file_replaced_by_another_machine_is_downloaded_again(storage: S3Storage, tmp_path: Path) -> None:
    other = elsewhere(storage, tmp_path)
    for value in (1.0, 2.0):
        with storage.new_file("expert") as path:
            save_file({"a": torch.full((3,), value)}, path)
        assert torch.equal(other.open_tensors("expert").tensor("a"), torch.full((3,), value))
    assert other.forget_local_copy("expert")


KILLED = """
import pickle, sys, time
storage = pickle.loads(bytes.fromhex(sys.argv[1]))
with storage.new_file("killed") as path:
    path.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_remains_of_a_killed_process_are_deleted(storage: S3Storage, tmp_path: Path) -> None:
    with storage.new_file("living") as living:
        save_file({"a": torch.ones(3)}, living)
        child = subprocess.Popen([sys.executable, "-c", KILLED, pickle.dumps(storage).hex()], stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None and child.stdout.readline() == b"writing\n"
            child.send_signal(signal.SIGKILL)
        assert files_below(tmp_path / "local") == ["killed", "living"]
        assert storage.names() == []
        with storage.new_file("next") as path:
            save_file({"a": torch.ones(3)}, path)
            assert files_below(tmp_path / "local") == ["living", "next"], "the living one is left alone"
    assert storage.names() == ["living", "next"]


def test_an_upload_that_died_is_aborted_later(
    s3: S3Server, storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sets/of/mine/expert.safetensors"
    for name in (key, key + ".other"):
        s3.client.create_multipart_upload(Bucket="experts", Key=name)
    monkeypatch.setattr("rayvldd.storage.s3._ABANDONED_AFTER", timedelta(days=99999))  # moto dates all of them to 2010
    put_large(storage)
    assert len(unfinished_uploads(s3)) == 2, "too young: it may be somebody's at work"
    monkeypatch.setattr("rayvldd.storage.s3._ABANDONED_AFTER", timedelta(days=1))
    put_large(storage)
    assert [upload["Key"] for upload in unfinished_uploads(s3)] == [key + ".other"]
    s3.faults.append(Fault("answer", "GET", "uploads", 99, 403, "AccessDenied"))
    put_large(storage)  # credentials that may not list uploads do no harm


# -- faults that pass


@pytest.mark.parametrize(
    "fault",
    [
        Fault("answer", "PUT", "partNumber=2", 2, 500, "InternalError"),
        Fault("answer", "PUT", "partNumber=2", 2, 503, "SlowDown"),
        Fault("cut", "PUT", "partNumber=2", 2),
        Fault("lost", "PUT", "partNumber=2", 2),
        Fault("slow", "PUT", "partNumber=2", 2, seconds=3.0),
        Fault("cut", "GET", "expert", 3),
        Fault("answer", "GET", "expert", 3, 503, "SlowDown"),
        Fault("slow", "GET", "expert", 2, seconds=3.0),
        Fault("answer", "HEAD", "expert", 3, 503, "SlowDown"),
        Fault("lost", "POST", "uploadId=", 1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.method}-{fault.status}",
)
def test_a_fault_that_passes_is_not_noticed(
    s3: S3Server, storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("rayvldd.storage.s3._READ_TIMEOUT_S", 1.0)
    s3.faults.append(fault := Fault(**vars(fault)))
    put_large(storage)
    assert torch.equal(elsewhere(storage, tmp_path).open_tensors("expert.safetensors").tensor("image.0"), LARGE)
    assert fault.times == 0, "the fault happened"
    assert unfinished_uploads(s3) == []


@pytest.mark.parametrize("kind", ["cut", "answer", "lost"])
def test_a_small_file_is_read_and_written_whatever_the_network_does(
    s3: S3Server, storage: S3Storage, kind: Any
) -> None:
    s3.faults += [Fault(kind, "PUT", "small", 2), Fault(kind, "GET", "small", 2)]
    storage.write("small", b"content" * 100)
    assert storage.read("small") == b"content" * 100
    assert all(fault.times == 0 for fault in s3.faults)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_swap_whose_answer_was_lost_knows_that_it_succeeded(
    s3: S3Server, storage: S3Storage, old: bytes | None
) -> None:
    if old is not None:
        storage.write("lease", old)
    s3.faults.append(Fault("lost", "PUT", "lease"))
    assert storage.swap("lease", old, b"mine")
    assert storage.read("lease") == b"mine"


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_swap_in_conflict_looks_again(s3: S3Server, storage: S3Storage, old: bytes | None) -> None:
    if old is not None:
        storage.write("lease", old)
    s3.faults.append(Fault("answer", "PUT", "lease", 2, 409, "ConditionalRequestConflict"))
    assert storage.swap("lease", old, b"mine")
    s3.faults.append(Fault("answer", "PUT", "lease", 99, 409, "ConditionalRequestConflict"))
    assert not storage.swap("lease", b"mine", b"next")


# -- faults that stay


@contextmanager
def refused(match: str) -> Iterator[None]:
    """The message contains address, reason, allowed values and the next command."""
    with pytest.raises(StoreError, match=f"(?is){match}") as caught:
        yield
    assert re.match(r"s3://[\w ]+/sets/of/mine\S*: could not be \w+: .+; allowed: .+\nNext: .+", str(caught.value))


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (Fault("answer", "PUT", "partNumber=2", 99, 500, "InternalError"), "500 InternalError.*AWS_MAX_ATTEMPTS"),
        (Fault("answer", "PUT", "partNumber=2", 99, 503, "SlowDown"), "503 SlowDown .*to the last of 6 tries"),
        (Fault("cut", "PUT", "partNumber=2", 99), "connection.*the same command again"),
        (Fault("answer", "PUT", "partNumber=2", 99, 400, "ExpiredToken"), "ExpiredToken.*aws sso login"),
        (Fault("answer", "POST", "uploads", 99, 403, "AccessDenied"), "AccessDenied.*s3:PutObject"),
        (Fault("answer", "POST", "uploadId", 99, 500, "InternalError"), "500 InternalError"),
    ],
    ids=lambda value: f"{value.kind}-{value.method}-{value.code}" if isinstance(value, Fault) else "",
)
def test_an_upload_that_fails_leaves_nothing(
    s3: S3Server, storage: S3Storage, tmp_path: Path, fault: Fault, match: str
) -> None:
    s3.faults.append(Fault(**vars(fault)))
    with refused(match):
        put_large(storage)
    s3.faults.clear()
    assert storage.names() == [] and unfinished_uploads(s3) == [] and files_below(tmp_path / "local") == []
    put_large(storage)
    assert storage.names() == ["expert.safetensors"]


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (Fault("answer", "GET", "expert", 99, 503, "SlowDown"), "503 SlowDown"),
        (Fault("cut", "GET", "expert", 99), "(read|connection|incomplete)"),
        (Fault("slow", "GET", "expert", 99, seconds=1.0), "timeout"),
        (Fault("answer", "GET", "", 99, 400, "ExpiredToken"), "ExpiredToken.*aws sso login"),
    ],
    ids=lambda value: f"{value.kind}-{value.code}" if isinstance(value, Fault) else "",
)
def test_a_download_that_fails_leaves_nothing(
    s3: S3Server, storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, match: str
) -> None:
    put_large(storage)
    monkeypatch.setattr("rayvldd.storage.s3._READ_TIMEOUT_S", 0.2 if fault.kind == "slow" else 20.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    other = elsewhere(storage, tmp_path)
    s3.faults.append(Fault(**vars(fault)))
    with refused(match):
        other.open_tensors("expert.safetensors")
    s3.faults.clear()
    assert files_below(tmp_path / "other_machine") == []
    assert torch.equal(other.open_tensors("expert.safetensors").tensor("image.0"), LARGE)


EVERYTHING = [
    lambda storage: storage.names(),
    lambda storage: storage.size("a"),
    lambda storage: storage.read("a"),
    lambda storage: storage.write("a", b""),
    lambda storage: storage.swap("a", None, b""),
    lambda storage: storage.swap("a", b"", b""),
    lambda storage: storage.delete("a"),
    lambda storage: storage.open_tensors("a"),
    put_large,
]


@pytest.mark.parametrize("index", range(len(EVERYTHING)))
def test_every_call_reports_the_reason(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    call: Any = EVERYTHING[index]
    with refused("NoSuchBucket.*aws s3 mb"):
        call(S3Storage("missing", "sets/of/mine", tmp_path / "local", endpoint_url=s3.url))
    with refused("invalid bucket name.*lower-case"):
        call(S3Storage("not a bucket", "sets/of/mine", tmp_path / "local", endpoint_url=s3.url))
    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        s3.faults.append(Fault("answer", method, "", 999, 400, "ExpiredToken"))
    with refused("ExpiredToken.*aws sso login"):
        call(S3Storage("experts", "sets/of/mine", tmp_path / "local", endpoint_url=s3.url))
    s3.faults.clear()
    with refused("endpoint was http://127.0.0.1:9"):
        call(S3Storage("experts", "sets/of/mine", tmp_path / "local", endpoint_url="http://127.0.0.1:9"))
    with refused("Invalid endpoint"):
        call(S3Storage("experts", "sets/of/mine", tmp_path / "local", endpoint_url="nowhere"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with refused("credentials.*AWS_ACCESS_KEY_ID"):
        call(S3Storage("experts", "sets/of/mine", tmp_path / "local", endpoint_url=s3.url))


def test_credentials_that_were_renewed_are_found(
    s3: S3Server, storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with refused("credentials"):
        storage.write("a", b"1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    storage.write("a", b"1")
    assert storage.read("a") == b"1"


def test_a_service_without_conditional_writes_is_refused(s3: S3Server, storage: S3Storage) -> None:
    s3.faults.append(Fault("answer", "PUT", "lease", 1, 501, "NotImplemented"))
    with refused("NotImplemented.*conditional writes.*file:///"):
        storage.swap("lease", None, b"mine")


def test_a_local_folder_that_cannot_be_written(s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    storage = S3Storage("experts", "", tmp_path / "file" / "local", endpoint_url=s3.url)
    with pytest.raises(StoreError, match=r"file/local.*cannot be written: Not a directory; allowed: .*\nNext: "):
        put_large(storage)
    s3.client.put_object(Bucket="experts", Key="a", Body=b"1")
    with pytest.raises(StoreError, match=r"file/local.*cannot be written: Not a directory"):
        storage.open_tensors("a")


def test_boto3_finds_the_endpoint_itself(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    storage = S3Storage("experts", "/sets/", tmp_path)
    storage.write("a", b"1")
    assert s3.client.get_object(Bucket="experts", Key="sets/a")["Body"].read() == b"1"
    assert storage.uri == "s3://experts/sets"


def test_the_clock_of_s3_dates_uploads(s3: S3Server) -> None:
    """Else a machine whose clock is a day ahead would abort everybody's uploads."""
    answer = s3.client.list_multipart_uploads(Bucket="experts")
    stamp = datetime.strptime(answer["ResponseMetadata"]["HTTPHeaders"]["date"], "%a, %d %b %Y %H:%M:%S GMT")
    assert abs(stamp.replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)
