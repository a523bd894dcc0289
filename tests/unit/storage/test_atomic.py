"""Files that are there whole or not at all: on the disk before they get their names, and one process's or another's."""

import os
import threading
from pathlib import Path

import pytest
import torch

from rayvldd.storage import atomic
from rayvldd.storage.atomic import append_line, copy_folder_whole, file_written_whole, write_bytes_whole
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.tensor_files import save_tensors


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order."""
    found: list[tuple[str, str]] = []
    replace, sync_file, sync_folder = os.replace, atomic.sync_file, atomic.sync_folder

    def replaced(source: Path, target: Path) -> None:
        found.append(("rename", Path(target).name))
        replace(source, target)

    def file(path: Path) -> None:
        found.append(("file", "part" if path.name.endswith(".part") else path.name))
        sync_file(path)

    def folder(path: Path) -> None:
        found.append(("folder", path.name))
        sync_folder(path)

    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(atomic, "sync_file", file)
    monkeypatch.setattr(atomic, "sync_folder", folder)
    return found


def test_content_is_on_the_disk_before_the_name_and_the_name_thereafter(
    tmp_path: Path, order: list[tuple[str, str]]
) -> None:
    (tmp_path / "here").mkdir()
    for name, write in {
        "a.json": lambda path: write_bytes_whole(path, b"{}"),
        "a.safetensors": lambda path: save_tensors(path, {"x": torch.zeros(2)}),
    }.items():
        order.clear()
        write(tmp_path / "here" / name)
        assert order == [("file", "part"), ("rename", name), ("folder", "here")]
    order.clear()
    with FolderStorage(tmp_path / "here").new_file("expert.safetensors") as path:
        save_tensors(path, {"x": torch.zeros(2)})
    assert order[-3:] == [("file", "part"), ("rename", "expert.safetensors"), ("folder", "here")]


def test_two_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """As two processes on one trial's checkpoint: the number of a process is the same on two machines."""
    file = tmp_path / "state.safetensors"
    errors: list[BaseException] = []

    def write(value: int) -> None:
        try:
            for _ in range(30):
                save_tensors(file, {"x": torch.full((1000,), float(value))})
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_bytes_whole(file, b"before")
    with pytest.raises(KeyboardInterrupt), file_written_whole(file) as part:
        part.write_bytes(b"half")
        raise KeyboardInterrupt
    assert file.read_bytes() == b"before" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_line_does_not_continue_one_that_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def synced_and_noted(number: int) -> None:
        synced.append(number)
        sync(number)

    monkeypatch.setattr(os, "fsync", synced_and_noted)
    file = tmp_path / "lines.jsonl"
    append_line(file, "one")
    append_line(file, "two")
    assert len(synced) >= 2
    with file.open("a") as opened:
        opened.write("thr")
    append_line(file, "four")
    assert file.read_text() == "one\ntwo\nthr\nfour\n"


def test_a_copied_folder_is_complete_before_it_has_its_name(tmp_path: Path, order: list[tuple[str, str]]) -> None:
    (tmp_path / "from" / "below").mkdir(parents=True)
    (tmp_path / "from" / "card.json").write_text("{}")
    (tmp_path / "from" / "below" / "tensors").write_text("new")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "earlier").touch()
    (tmp_path / ".to.00000000.part").mkdir()  # of a process that was killed
    copy_folder_whole(tmp_path / "from", tmp_path / "to")
    assert [name for what, name in order if what == "file"] and order[-2:] == [
        ("rename", "to"),
        ("folder", tmp_path.name),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"from", "to"}
    assert sorted(path.name for path in (tmp_path / "to").rglob("*")) == ["below", "card.json", "tensors"]


def test_a_copy_that_fails_leaves_the_earlier_folder(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "earlier").touch()
    with pytest.raises(OSError, match="No such file"):
        copy_folder_whole(tmp_path / "missing", tmp_path / "to")
    assert [path.name for path in tmp_path.rglob("*")] == ["to", "earlier"]
