"""Every place of files: what is there is whole, of many that swap one succeeds, and nothing else is ever seen."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rayvldd.errors import StoreError
from rayvldd.stores.place import Place

TENSORS = {
    "image.0": torch.randn(257, generator=torch.Generator().manual_seed(1)),
    "image.1": torch.randn(257, generator=torch.Generator().manual_seed(2)).to(torch.float16),
    "matrix": torch.arange(12).reshape(3, 4),
    "brain": torch.randn(5, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "nothing": torch.zeros(0, 3),
}


def put(place: Place, name: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> int:
    with place.new_file(name) as path:
        save_file(tensors, path, metadata)
        return path.stat().st_size


def test_small_files(place: Place) -> None:
    assert place.read("a/manifest.json") is None and place.size("a/manifest.json") is None
    place.write("a/manifest.json", b"one")
    assert place.read("a/manifest.json") == b"one" and place.size("a/manifest.json") == 3
    place.write("a/manifest.json", b"")
    assert place.read("a/manifest.json") == b"" and place.size("a/manifest.json") == 0
    place.delete("a/manifest.json")
    place.delete("a/manifest.json")
    assert place.read("a/manifest.json") is None and place.names() == []


def test_names_are_full_sorted_and_of_the_folder_alone(place: Place) -> None:
    names = ["b.json", "a/2.json", "a/10.json", "ab/1.json", "a/deep/er/1.json"]
    for name in names:
        place.write(name, b"{}")
    assert place.names() == sorted(names)
    assert place.names("a") == ["a/10.json", "a/2.json", "a/deep/er/1.json"]
    assert place.names("a/deep") == ["a/deep/er/1.json"]
    assert place.names("nowhere") == []


def test_swap(place: Place) -> None:
    assert not place.swap("claim", b"old", b"new")
    assert place.read("claim") is None
    assert place.swap("claim", None, b"first")
    assert not place.swap("claim", None, b"second")
    assert not place.swap("claim", b"other", b"second")
    assert place.read("claim") == b"first"
    assert place.swap("claim", b"first", b"second")
    assert not place.swap("claim", b"first", b"third")
    assert place.read("claim") == b"second"
    place.delete("claim")
    assert not place.swap("claim", b"second", b"third")
    assert place.swap("claim", None, b"fourth")


@pytest.mark.parametrize("old", [None, b"old"])
def test_of_many_that_swap_one_succeeds(place: Place, old: bytes | None) -> None:
    if old is not None:
        place.write("claim", old)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda index: place.swap("claim", old, b"%d" % index), range(8)))
    assert won.count(True) == 1
    assert place.read("claim") == b"%d" % won.index(True)


def test_a_file_of_tensors(place: Place) -> None:
    size = put(place, "set/expert_000.safetensors", TENSORS, {"key": "value"})
    assert place.names() == ["set/expert_000.safetensors"] and place.size("set/expert_000.safetensors") == size
    source = place.open_tensors("set/expert_000.safetensors")
    assert sorted(source.names) == sorted(TENSORS) and source.metadata == {"key": "value"}
    for name, expected in TENSORS.items():
        tensor = source.tensor(name)
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name
    with pytest.raises(Exception, match="unknown"):
        source.tensor("unknown")


def test_a_file_is_there_when_it_is_whole(place: Place) -> None:
    with place.new_file("expert.safetensors") as path:
        save_file(TENSORS, path)
        assert place.names() == [] and place.size("expert.safetensors") is None
    assert place.names() == ["expert.safetensors"]
    with pytest.raises(ZeroDivisionError), place.new_file("other.safetensors") as path:
        save_file(TENSORS, path)
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), place.new_file("expert.safetensors") as path:
        save_file({"image.0": TENSORS["matrix"]}, path)
        raise KeyboardInterrupt
    assert place.names() == ["expert.safetensors"] and not path.exists()
    assert torch.equal(place.open_tensors("expert.safetensors").tensor("image.0"), TENSORS["image.0"])


def test_a_file_that_replaces_another_is_what_is_read(place: Place) -> None:
    put(place, "checkpoint", {"image.0": torch.zeros(4)})
    before = place.open_tensors("checkpoint").tensor("image.0")
    put(place, "checkpoint", {"image.0": torch.ones(4)})
    assert torch.equal(place.open_tensors("checkpoint").tensor("image.0"), torch.ones(4))
    assert torch.equal(before, torch.zeros(4))


def test_a_local_copy_can_be_forgotten(place: Place) -> None:
    assert not place.forget_local_copy("expert")
    put(place, "expert", TENSORS)
    place.open_tensors("expert").tensor("matrix")
    place.forget_local_copy("expert")
    assert not place.forget_local_copy("expert")
    assert torch.equal(place.open_tensors("expert").tensor("matrix"), TENSORS["matrix"])


def test_what_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(StoreError, match=r"expert_004[^\n]*; allowed: [^\n]+\nNext: "):
        place.open_tensors("set/expert_004.safetensors")


def test_a_place_travels_by_pickle(place: Place) -> None:
    put(place, "expert", TENSORS)
    copy: Place = pickle.loads(pickle.dumps(place))
    assert copy.uri == place.uri and copy.uri.partition("://")[0] in ("file", "s3", "object-store")
    assert torch.equal(copy.open_tensors("expert").tensor("matrix"), TENSORS["matrix"])
    assert len(pickle.dumps(place)) < 2000
