"""Names that others have written to a storage cannot refer to paths outside its folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rayvldd.config.settings import FolderData
from rayvldd.data.annotations import read_records
from rayvldd.errors import StoreError
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.names import path_inside, stays_inside
from rayvldd.user_paths import user_path

OUTSIDE = ["/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/", "a\0b", "a\\..\\b", "x" * 256, "é" * 128, "\ud800"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_operation_refuses_a_name_that_leads_out(tmp_path: Path, name: str) -> None:
    storage = FolderStorage(tmp_path / "store")
    storage.write("a/kept", b"x")
    assert not stays_inside(name)
    operations: list[Callable[[str], object]] = [
        storage.size,
        storage.read,
        storage.delete,
        storage.open_tensors,
        storage.names,
        lambda name: storage.write(name, b""),
        lambda name: storage.swap(name, None, b""),
        lambda name: storage.new_file(name).__enter__(),
    ]
    for operation in operations:
        with pytest.raises(StoreError, match="is no name of a file below it"):
            operation(name)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_links_are_followed_inside_a_storage_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "store", tmp_path / "outside"
    (inside / "set").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "set" / "a").write_text("content")
    (inside / "set" / "file").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    (inside / "again").symlink_to(inside / "set")
    (inside / "loop").symlink_to(inside / "loop")
    storage = FolderStorage(inside)
    assert storage.read("again/a") == b"content"
    for name in ("set/file", "folder/secret", "folder/new"):
        with pytest.raises(StoreError, match="a symbolic link leads out of"):
            storage.read(name)
        with pytest.raises(StoreError, match="a symbolic link leads out of"):
            storage.write(name, b"")
    with pytest.raises(StoreError, match="a symbolic link leads out of"):
        storage.names("folder")
    with pytest.raises(StoreError):
        storage.read("loop")
    assert [file.name for file in outside.iterdir()] == ["secret"]
    (tmp_path / "link_to_store").symlink_to(inside)
    assert FolderStorage(tmp_path / "link_to_store").read("set/a") == b"content"


def test_other_names_are_paths_below(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "") == tmp_path
    for name in ("a", "a/b.json", "a/..b", "..a", ".a.1f.part", "x" * 255):
        assert path_inside(tmp_path, name) == tmp_path / name


def test_a_leading_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/sets") == tmp_path / "sets"
    assert user_path("~nobody_of_this_name/x") == Path("~nobody_of_this_name/x")
    assert user_path(Path("a/~")) == Path("a/~")


def test_every_path_setting_of_the_data_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    rows = []
    for split in ("train", "val", "test"):
        (tmp_path / "pictures" / f"{split}.png").touch()
        rows.append(f'{{"image": "{split}.png", "captions": ["A dog."], "split": "{split}"}}\n')
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    (tmp_path / "elsewhere").mkdir()
    data = FolderData(source="folder", root="~/elsewhere", annotations="~/rows.jsonl", images="~/pictures")
    assert {record.path.parent for record in read_records(data)} == {tmp_path / "pictures"}
