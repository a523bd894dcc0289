"""All storages: files are complete, one of several concurrent swaps succeeds, and no other state is visible."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rayvldd.errors import StoreError
from rayvldd.storage.storage import Storage

TENSORS = {
    "image.0": torch.randn(257, generator=torch.Generator().manual_seed(1)),
    "image.1": torch.randn(257, generator=torch.Generator().manual_seed(2)).to(torch.float16),
    "matrix": torch.arange(12).reshape(3, 4),
    "brain": torch.randn(5, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "nothing": torch.zeros(0, 3),
}


def put(storage: Storage, name: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> int:
    with storage.new_file(name) as path:
        save_file(tensors, path, metadata)
        return path.stat().st_size


def test_small_files(storage: Storage) -> None:
    assert storage.read("a/manifest.json") is None and storage.size("a/manifest.json") is None
    storage.write("a/manifest.json", b"one")
    assert storage.read("a/manifest.json") == b"one" and storage.size("a/manifest.json") == 3
    storage.write("a/manifest.json", b"")
    assert storage.read("a/manifest.json") == b"" and storage.size("a/manifest.json") == 0
    storage.delete("a/manifest.json")
    storage.delete("a/manifest.json")
    assert storage.read("a/manifest.json") is None and storage.names() == []


def test_names_are_full_sorted_and_of_the_folder_alone(storage: Storage) -> None:
    names = ["b.json", "a/2.json", "a/10.json", "ab/1.json", "a/deep/er/1.json"]
    for name in names:
        storage.write(name, b"{}")
    assert storage.names() == sorted(names)
    assert storage.names("a") == ["a/10.json", "a/2.json", "a/deep/er/1.json"]
    assert storage.names("a/deep") == ["a/deep/er/1.json"]
    assert storage.names("nowhere") == []


def test_swap(storage: Storage) -> None:
    assert not storage.swap("lease", b"old", b"new")
    assert storage.read("lease") is None
    assert storage.swap("lease", None, b"first")
    assert not storage.swap("lease", None, b"second")
    assert not storage.swap("lease", b"other", b"second")
    assert storage.read("lease") == b"first"
    assert storage.swap("lease", b"first", b"second")
    assert not storage.swap("lease", b"first", b"third")
    assert storage.read("lease") == b"second"
    storage.delete("lease")
    assert not storage.swap("lease", b"second", b"third")
    assert storage.swap("lease", None, b"fourth")


@pytest.mark.parametrize("old", [None, b"old"])
def test_of_many_that_swap_one_succeeds(storage: Storage, old: bytes | None) -> None:
    if old is not None:
        storage.write("lease", old)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda index: storage.swap("lease", old, b"%d" % index), range(8)))
    assert won.count(True) == 1
    assert storage.read("lease") == b"%d" % won.index(True)


def test_a_file_of_tensors(storage: Storage) -> None:
    size = put(storage, "set/expert_000.safetensors", TENSORS, {"key": "value"})
    assert storage.names() == ["set/expert_000.safetensors"] and storage.size("set/expert_000.safetensors") == size
    source = storage.open_tensors("set/expert_000.safetensors")
    assert sorted(source.names) == sorted(TENSORS) and source.metadata == {"key": "value"}
    for name, expected in TENSORS.items():
        tensor = source.tensor(name)
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name
    with pytest.raises(Exception, match="unknown"):
        source.tensor("unknown")


def test_a_file_is_there_when_it_is_whole(storage: Storage) -> None:
    with storage.new_file("expert.safetensors") as path:
        save_file(TENSORS, path)
        assert storage.names() == [] and storage.size("expert.safetensors") is None
    assert storage.names() == ["expert.safetensors"]
    with pytest.raises(ZeroDivisionError), storage.new_file("other.safetensors") as path:
        save_file(TENSORS, path)
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), storage.new_file("expert.safetensors") as path:
        save_file({"image.0": TENSORS["matrix"]}, path)
        raise KeyboardInterrupt
    assert storage.names() == ["expert.safetensors"] and not path.exists()
    assert torch.equal(storage.open_tensors("expert.safetensors").tensor("image.0"), TENSORS["image.0"])


def test_a_replaced_file_is_read(storage: Storage) -> None:
    put(storage, "checkpoint", {"image.0": torch.zeros(4)})
    before = storage.open_tensors("checkpoint").tensor("image.0")
    put(storage, "checkpoint", {"image.0": torch.ones(4)})
    assert torch.equal(storage.open_tensors("checkpoint").tensor("image.0"), torch.ones(4))
    assert torch.equal(before, torch.zeros(4))


def test_a_local_copy_can_be_forgotten(storage: Storage) -> None:
    assert not storage.forget_local_copy("expert")
    put(storage, "expert", TENSORS)
    storage.open_tensors("expert").tensor("matrix")
    storage.forget_local_copy("expert")
    assert not storage.forget_local_copy("expert")
    assert torch.equal(storage.open_tensors("expert").tensor("matrix"), TENSORS["matrix"])


def test_what_is_not_there_is_named(storage: Storage) -> None:
    with pytest.raises(StoreError, match=r"expert_004[^\n]*; allowed: [^\n]+\nNext: "):
        storage.open_tensors("set/expert_004.safetensors")


def test_a_place_travels_by_pickle(storage: Storage) -> None:
    put(storage, "expert", TENSORS)
    copy: Storage = pickle.loads(pickle.dumps(storage))
    assert copy.uri == storage.uri and copy.uri.partition("://")[0] in ("file", "s3", "object-store")
    assert torch.equal(copy.open_tensors("expert").tensor("matrix"), TENSORS["matrix"])
    assert len(pickle.dumps(storage)) < 2000
