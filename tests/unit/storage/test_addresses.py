"""Which addresses are folders, and which are refused."""

from pathlib import Path

import pytest

from rayvldd.errors import InputError
from rayvldd.storage.addresses import open_storage
from rayvldd.workspace import Workspace


@pytest.mark.parametrize("name", ["some where", "feature%2Fnew", "what?", "a#b", "größe", "with:colon"])
def test_a_folder_is_itself_whatever_its_name(tmp_path: Path, name: str) -> None:
    workspace, folder = Workspace(tmp_path), tmp_path / name
    opened = open_storage(str(folder), workspace, "--store")
    assert opened.uri == folder.as_uri()
    opened.write("x", b"1")
    assert (folder / "x").read_bytes() == b"1"
    assert open_storage(folder.as_uri(), workspace, "--store").read("x") == b"1"


def test_a_colon_in_a_relative_folder_is_no_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("run:3", Workspace("w"), "--store").uri == (tmp_path / "run:3").as_uri()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("s3:/bucket/x", "did you mean 's3://bucket/x'?"),
        ("s3:bucket/x", "did you mean 's3://bucket/x'?"),
        ("file:/folder", "did you mean 'file:///folder'?"),
        ("object-store:/name", "did you mean 'object-store://name'?"),
        ("gs:/bucket", ""),
        ("file:///folder?x=1", "'?' or '#'"),
        ("s3://bucket/a#b", "'?' or '#'"),
        ("http://host/x", ""),
    ],
)
def test_an_address_that_would_be_another_place_is_refused(tmp_path: Path, wrong: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        open_storage(wrong, Workspace(tmp_path), "--store")
    assert f"--store: got {wrong!r}" in str(caught.value) and hint in str(caught.value)
    assert list(tmp_path.iterdir()) == []
