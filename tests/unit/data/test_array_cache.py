"""Cached arrays are made once, and never read when their inputs have changed."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rayvldd.data import array_cache as module
from rayvldd.data.array_cache import ArrayCache, fingerprint
from rayvldd.errors import StoreError


class Maker:
    """Fills an array with one number and counts its calls."""

    def __init__(self, number: float) -> None:
        self.number = number
        self.calls = 0

    def __call__(self, array: np.ndarray) -> None:
        self.calls += 1
        array[:] = self.number


def test_makes_once_then_reads(tmp_path: Path) -> None:
    cache, make = ArrayCache(tmp_path / "new" / "cache"), Maker(3)
    first = cache.get_or_make("pixels", {"size": 4}, (2, 3), np.uint8, make)
    second = ArrayCache(tmp_path / "new" / "cache").get_or_make("pixels", {"size": 4}, (2, 3), np.uint8, make)
    assert make.calls == 1
    assert first.dtype == np.uint8 and first.shape == (2, 3)
    np.testing.assert_array_equal(second, 3)


def test_array_is_memory_mapped_and_read_only(tmp_path: Path) -> None:
    array = ArrayCache(tmp_path).get_or_make("pixels", {}, (2,), np.float32, Maker(1))
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5


@pytest.mark.parametrize(
    ("kind", "key", "shape", "dtype"),
    [
        ("texts", {"size": 4}, (2,), "uint8"),
        ("pixels", {"size": 5}, (2,), "uint8"),
        ("pixels", {"size": "4"}, (2,), "uint8"),
        ("pixels", {"size": 4}, (3,), "uint8"),
        ("pixels", {"size": 4}, (2,), "int8"),
    ],
)
def test_any_change_is_another_array(tmp_path: Path, kind: str, key: dict, shape: tuple[int], dtype: str) -> None:
    cache, make = ArrayCache(tmp_path), Maker(2)
    cache.get_or_make("pixels", {"size": 4}, (2,), "uint8", Maker(1))
    array = cache.get_or_make(kind, key, shape, dtype, make)
    assert make.calls == 1
    np.testing.assert_array_equal(array, 2)


def test_the_key_is_stored_with_the_array(tmp_path: Path) -> None:
    ArrayCache(tmp_path).get_or_make("pixels", {"files": "abc"}, (2,), np.uint8, Maker(0))
    (described,) = tmp_path.glob("pixels-*.json")
    assert json.loads(described.read_text())["key"] == {"files": "abc"}
    assert described.with_suffix(".npy").exists()


def test_nothing_is_kept_when_making_fails(tmp_path: Path) -> None:
    def fail(array: np.ndarray) -> None:
        array[:] = 1
        raise KeyboardInterrupt

    cache = ArrayCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_make("pixels", {}, (2,), np.uint8, fail)
    assert [path.suffix for path in tmp_path.iterdir()] in ([], [".lock"])
    np.testing.assert_array_equal(cache.get_or_make("pixels", {}, (2,), np.uint8, Maker(7)), 7)


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
def test_a_truncated_or_foreign_file_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    cache = ArrayCache(tmp_path)
    cache.get_or_make("pixels", {}, (1000,), np.uint8, Maker(1))
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:500] if damage is None else damage)
    np.testing.assert_array_equal(cache.get_or_make("pixels", {}, (1000,), np.uint8, Maker(2)), 2)


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    """A single bit anywhere: in the pixels, in the header, in the checksum, or no checksum at all."""
    cache = ArrayCache(tmp_path)
    cache.get_or_make("pixels", {}, (1000,), np.uint8, Maker(1))
    (file,), (sidecar,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    whole, key = file.read_bytes(), sidecar.read_bytes()
    checksum = key.index(b'"checksum"') + 15
    for number, (damaged, at) in enumerate([(file, 900), (file, 20), (file, 5), (sidecar, checksum), (sidecar, 0)]):
        file.write_bytes(whole)
        sidecar.write_bytes(key)
        content = bytearray(damaged.read_bytes())
        content[at] ^= 1
        damaged.write_bytes(content)
        file.touch()  # a machine verifies a file again if its times have changed, or after a boot
        make = Maker(1)
        np.testing.assert_array_equal(cache.get_or_make("pixels", {}, (1000,), np.uint8, make), 1)
        assert make.calls == 1, number
        assert file.read_bytes() == whole


def test_a_machine_compares_a_file_once_in_its_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Path] = []
    checksum = module._checksum

    def noted(path: Path) -> str:
        compared.append(path)
        return checksum(path)

    monkeypatch.setattr(module, "_checksum", noted)
    cache = ArrayCache(tmp_path)

    def get() -> None:
        cache.get_or_make("pixels", {}, (4,), np.uint8, Maker(1))

    get()
    assert len(compared) == 1, "when it was made"
    get()
    get()
    assert len(compared) == 1
    monkeypatch.setattr(module, "machine_identity", lambda: "after the next start")
    get()
    get()
    assert len(compared) == 2


def test_a_cache_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, make = ArrayCache(tmp_path), Maker(2)
    cache.get_or_make("pixels", {}, (4,), np.uint8, Maker(1))
    next(tmp_path.glob(".*.verified")).unlink()
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    monkeypatch.setattr(module, "FileLock", None)
    np.testing.assert_array_equal(cache.get_or_make("pixels", {}, (4,), np.uint8, make), 1)
    assert make.calls == 0


def test_remains_of_a_killed_process_are_overwritten(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    cache.get_or_make("pixels", {}, (4,), np.uint8, Maker(1))
    (file,) = tmp_path.glob("*.npy")
    file.rename(file.with_suffix(".partial"))
    np.testing.assert_array_equal(cache.get_or_make("pixels", {}, (4,), np.uint8, Maker(2)), 2)
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cache folder .*file/cache cannot be written(?s:.)*Next: .*--workspace"):
        ArrayCache(tmp_path / "file" / "cache").get_or_make("pixels", {}, (2,), np.uint8, Maker(1))


def make_and_leave_a_mark(folder: Path, worker: int) -> float:
    def make(array: np.ndarray) -> None:
        (folder / f"made-by-{worker}").touch()
        array[:] = worker

    return float(ArrayCache(folder / "cache").get_or_make("pixels", {}, (200_000,), np.float32, make).mean())


def test_many_processes_make_it_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        seen = set(pool.map(make_and_leave_a_mark, [tmp_path] * 6, range(6)))
    assert len(seen) == 1
    assert len(list(tmp_path.glob("made-by-*"))) == 1


def test_fingerprint_names_the_value_not_its_spelling() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint("é") != fingerprint("e")
    assert len(fingerprint(None)) == 16


def test_fingerprint_rejects_values_outside_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))
    with pytest.raises(TypeError, match="not JSON serializable"):
        fingerprint(Path("x"))
