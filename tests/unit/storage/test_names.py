"""Names that others have written to a storage cannot refer to paths outside its folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rayvldd.errors import StoreError
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.names import path_inside, stays_inside

OUTSIDE = ["/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/", "a\0b", "a\\..\\b", "x" * 256, "é" * 128]


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


def test_other_names_are_paths_below(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "") == tmp_path
    for name in ("a", "a/b.json", "a/..b", "..a", ".a.1f.part", "x" * 255):
        assert path_inside(tmp_path, name) == tmp_path / name
