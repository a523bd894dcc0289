"""The contract of storages."""

import pickle
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from rayvldd.storage.storage import Storage
from rayvldd.storage.tensor_files import save_tensors


def check_storage(make: Callable[[], Storage]) -> None:
    """Check that writes are atomic, one of several concurrent swaps succeeds, and tensors are read back exactly.

    Args:
        make: Returns an empty storage.

    Raises:
        AssertionError: if the contract is violated.
    """
    storage: Storage = pickle.loads(pickle.dumps(make()))
    _check_small_files(storage)
    _check_swaps(storage)
    _check_tensors(storage)


def _check_small_files(storage: Storage) -> None:
    assert storage.names() == [], "the storage is not empty"
    assert storage.read("a/b.json") is None and storage.size("a/b.json") is None, "a file that is not there"
    for content in (b"first", b"second, and longer"):
        storage.write("a/b.json", content)
        assert storage.read("a/b.json") == content, "a file does not have the content that was written last"
        assert storage.size("a/b.json") == len(content), "the size is not that of the content"
    storage.write("c.json", b"")
    assert storage.names() == ["a/b.json", "c.json"], "names are whole and sorted"
    assert storage.names("a") == ["a/b.json"], "names of a folder begin with it"
    storage.delete("c.json")
    storage.delete("c.json")  # deleting it again is not an error
    assert storage.names() == ["a/b.json"], "a deleted file is still there"


def _check_swaps(storage: Storage) -> None:
    assert not storage.swap("lease", b"other", b"mine"), "a swap of a file that is not there succeeded"
    contents = [secrets.token_bytes(8) for _ in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        won = list(pool.map(lambda content: storage.swap("lease", None, content), contents))
    assert won.count(True) == 1, f"{won.count(True)} of 8 swaps at the same time succeeded"
    assert storage.read("lease") == contents[won.index(True)], "the file is not that of the swap that succeeded"


def _check_tensors(storage: Storage) -> None:
    tensors = {"image.0": torch.arange(6, dtype=torch.float32), "text.0": torch.ones(3, dtype=torch.float16)}
    with storage.new_file("set/expert.safetensors") as path:
        save_tensors(path, tensors, {"note": "a"})
        assert "set/expert.safetensors" not in storage.names(), "a file counts before its block has ended"
    source = storage.open_tensors("set/expert.safetensors")
    assert sorted(source.names) == sorted(tensors) and source.metadata == {"note": "a"}, "names or metadata differ"
    for name, value in tensors.items():
        assert torch.equal(source.tensor(name), value), f"{name} is not what was written"
    try:
        with storage.new_file("set/broken.safetensors") as path:
            path.write_bytes(b"half")
            raise RuntimeError("the writer fails")
    except RuntimeError:
        pass
    assert "set/broken.safetensors" not in storage.names(), "a file whose writer failed counts"
