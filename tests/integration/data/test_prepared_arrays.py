"""Arrays made in parts, kept in shards and taken by the cache: the same names and bytes as those made in one piece."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rayvldd.cli.main import main
from rayvldd.config.settings import DataSettings, FolderData, ToyScenesData
from rayvldd.config.study import Study
from rayvldd.data import array_shards, dataset
from rayvldd.data.annotations import SPLITS
from rayvldd.data.array_cache import ArrayCache, ArrayDescription, ListFingerprint, fingerprint
from rayvldd.data.array_shards import ArrayShards
from rayvldd.data.dataset import load_dataset
from rayvldd.data.left_out import left_out_so_far
from rayvldd.data.prepared_arrays import note_prepared, open_cache
from rayvldd.data.split_sources import split_sources
from rayvldd.errors import DataError, StoreError
from rayvldd.models.retrieval_task import load_task
from rayvldd.models.text_encoder import HashedNgrams
from rayvldd.runtime.array_pipeline import prepare_arrays, prepare_study, requested_arrays
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.storage import Storage
from rayvldd.workspace import Workspace

RAY_WARNS_OF_ITSELF = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
"""Ray 2.60 sets deprecated fields where it copies its own context."""

ROWS = np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3)
ARRAY = ArrayDescription("captions", {"of": "a test"}, ROWS.shape, "float32")


def photographs(folder: Path) -> FolderData:
    """Eight images of several sizes, with one to three captions each."""
    random, lines = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for number in range(8):
        noise = random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.jpg")
        captions = [f"photograph {number} told {time} times" for time in range(1 + number % 3)]
        split = "val" if number == 3 else "test" if number == 4 else "train"
        lines.append(json.dumps({"image": f"{number}.jpg", "captions": captions, "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return FolderData(source="folder", root=str(folder), annotations="captions.jsonl", images="images", image_size=16)


@pytest.fixture(params=["toy_scenes", "folder"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> DataSettings:
    if request.param == "folder":
        return photographs(tmp_path / "data")
    return ToyScenesData(source="toy_scenes", image_size=16, num_train=300, num_val=3, num_test=3)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return FolderStorage(tmp_path / "store")
    from rayvldd.storage.s3 import S3Storage

    return S3Storage("experts", "sets", tmp_path / "local", endpoint_url=request.getfixturevalue("s3").url)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of ``ARRAY``, or one image of 16 pixels, per shard. Workers read the sizes from the manifest."""
    monkeypatch.setattr(array_shards, "SHARD_BYTES", 3 * ROWS[0].nbytes)


def kept(store: Storage) -> ArrayShards:
    """A store with the whole of ``ROWS``."""
    shards = ArrayShards(store)
    assert shards.begin(ARRAY) == 3
    for number in shards.missing(ARRAY):
        shards.write(ARRAY, number, ROWS[3 * number : 3 * number + 3])
    return shards


# --- parts --------------------------------------------------------------------------------------------------------


def test_fingerprint_of_a_list_that_is_never_whole() -> None:
    named = ListFingerprint()
    assert named.hexdigest() == fingerprint([])
    for value in ("é, \"'", {"b": 1, "a": [2]}, 0.1):
        named.add(value)
    assert named.hexdigest() == fingerprint(["é, \"'", {"a": [2], "b": 1}, 0.1])


def test_parts_are_those_of_the_arrays_made_in_one_piece(data: DataSettings, tmp_path: Path) -> None:
    whole = load_dataset(data, ArrayCache(tmp_path / "cache"))
    for name, source in zip(SPLITS, split_sources(data, tmp_path), strict=True):
        split = getattr(whole, name)
        assert (tmp_path / "cache" / f"{source.pixels.name}.npy").is_file()
        assert source.captions_fingerprint == fingerprint(split.captions)
        assert source.num_captions == len(split.captions)
        cut = min(257, len(split.pixels) - 1)  # after a saved state of the generator, if there are that many
        for start, stop in ((0, cut), (cut, len(split.pixels))):
            pixels = np.zeros((stop - start, *split.pixels.shape[1:]), dtype=np.uint8)
            source.image_part(start, stop).fill(pixels, ArrayShards(FolderStorage(tmp_path / "store")))
            np.testing.assert_array_equal(pixels, split.pixels[start:stop])
        cut = len(split.captions) * 9 // 10
        halves = source.caption_part(0, cut).captions(), source.caption_part(cut, len(split.captions)).captions()
        assert halves[0] + halves[1] == split.captions
        assert len(halves[0]) == cut


# --- shards -------------------------------------------------------------------------------------------------------


def test_shards_are_read_as_written(store: Storage) -> None:
    parts = kept(store).parts(ARRAY)
    assert parts is not None
    found = list(parts)
    assert [len(part) for part in found] == [3, 3, 1]
    assert np.concatenate(found).tobytes() == ROWS.tobytes()
    assert found[0].dtype == np.float32


def test_how_an_array_is_cut_is_decided_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = kept(FolderStorage(tmp_path))
    monkeypatch.setattr(array_shards, "SHARD_BYTES", 10**6)
    assert shards.begin(ARRAY) == 3
    assert shards.missing(ARRAY) == []


def test_a_shard_holds_whole_units(tmp_path: Path) -> None:
    assert ArrayShards(FolderStorage(tmp_path)).begin(ARRAY, unit=2) == 2
    other = ArrayDescription("captions", {}, ROWS.shape, "float32")
    assert ArrayShards(FolderStorage(tmp_path)).begin(other, unit=5) == 5  # one at least, however large it is


def test_no_array_is_no_fault(store: Storage) -> None:
    assert ArrayShards(store).parts(ARRAY) is None


def test_an_array_with_shards_missing_is_refused(tmp_path: Path) -> None:
    shards = kept(FolderStorage(tmp_path))
    shards.storage.delete(f"arrays/{ARRAY.name}/shard_00001.json")
    assert shards.missing(ARRAY) == [1]
    with pytest.raises(StoreError, match=r"1 of 3 shards are missing(?s:.)*Next: rayvldd prepare"):
        shards.parts(ARRAY)


@pytest.mark.parametrize("damage", ["bytes", "rows", "shape"])
def test_a_damaged_shard_is_reported_and_made_again(tmp_path: Path, damage: str) -> None:
    shards, file = kept(FolderStorage(tmp_path)), tmp_path / "arrays" / ARRAY.name / "shard_00001.arrow"
    if damage == "bytes":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:  # a whole file with its own checksum, which is not this shard
        wrong = ROWS[:2] if damage == "rows" else ROWS[:3, :, :2]
        of_wrong = ArrayDescription("captions", ARRAY.key, (7, *wrong.shape[1:]), "float32")
        ArrayShards(FolderStorage(tmp_path / "wrong")).write(of_wrong, 1, wrong)
        for path in (tmp_path / "wrong" / "arrays" / of_wrong.name).iterdir():
            path.replace(file.with_name(path.name))
    parts = shards.parts(ARRAY)
    assert parts is not None and len(next(parts)) == 3
    with pytest.raises(StoreError, match=r"shard_00001\.arrow: damaged(?s:.)*Next: rayvldd prepare"):
        next(parts)
    assert shards.missing(ARRAY) == [1]


def test_another_layout_is_refused(tmp_path: Path) -> None:
    shards, manifest = kept(FolderStorage(tmp_path)), tmp_path / "arrays" / ARRAY.name / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StoreError, match=r"format 2 by rayvldd .*allowed: 1(?s:.)*Next: move that folder away"):
        shards.parts(ARRAY)


# --- the cache ----------------------------------------------------------------------------------------------------


def never(_: np.ndarray) -> None:
    raise AssertionError("it is in the store")


def test_the_cache_fetches_arrays_of_the_store(store: Storage, tmp_path: Path) -> None:
    fetched: list[int] = []
    cache = ArrayCache(tmp_path / "cache", kept(store))
    array = cache.get_or_make("captions", ARRAY.key, ROWS.shape, np.float32, never, fetched.append)
    assert fetched == [3, 6, 7]

    def make(out: np.ndarray) -> None:
        out[:] = ROWS

    ArrayCache(tmp_path / "made").get_or_make("captions", ARRAY.key, ROWS.shape, np.float32, make)
    np.testing.assert_array_equal(array, ROWS)
    files = [sorted((tmp_path / name).glob("captions-*.[nj]*")) for name in ("cache", "made")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len(files[0]) == 2


def test_nothing_is_kept_of_an_array_whose_shard_is_damaged(tmp_path: Path) -> None:
    shards = kept(FolderStorage(tmp_path / "store"))
    (tmp_path / "store" / "arrays" / ARRAY.name / "shard_00002.arrow").write_bytes(b"not Arrow")
    cache = ArrayCache(tmp_path / "cache", shards)
    with pytest.raises(StoreError, match="damaged"):
        cache.get_or_make("captions", ARRAY.key, ROWS.shape, np.float32, never)
    assert not list((tmp_path / "cache").glob("*.[np]*"))


def test_each_machine_copies_to_its_own_disk(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    kept(FolderStorage(tmp_path / "store"))
    note_prepared(workspace, str(tmp_path / "store"), tmp_path / "disk")
    note_prepared(workspace, str(tmp_path / "another"), None)  # the first store and the local disk are still used
    open_cache(workspace.cache).get_or_make("captions", ARRAY.key, ROWS.shape, np.float32, never)
    assert [path.name for path in (tmp_path / "disk").glob("*.npy")] == [f"{ARRAY.name}.npy"]
    assert not list(workspace.cache.glob("*.npy"))


# --- the pipelines, on Ray ----------------------------------------------------------------------------------------


def shards_with_times(store: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(store.rglob("shard_*"))}


def running_pipelines() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


def forbid_making(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Iterator[int]:
        raise AssertionError("it is in the store")

    monkeypatch.setattr(dataset, "draw_into", refuse)
    monkeypatch.setattr(HashedNgrams, "embed", refuse)


@RAY_WARNS_OF_ITSELF
def test_prepare_resumes_and_commands_use_its_arrays(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    monkeypatch.setattr(array_shards, "SHARD_BYTES", 10 * 3 * 16 * 16)

    def interrupt(_: str, done: int, __: int) -> None:
        if done:
            raise KeyboardInterrupt

    requests = requested_arrays(tiny_study, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare_arrays(requests, tiny_study.resources, ArrayShards(FolderStorage(workspace.experts)), interrupt)
    assert not running_pipelines(), "an interrupted pipeline keeps the CPUs of the next one"
    # A worker may be between the two files of a shard; only a shard that has both counts as written.
    found = shards_with_times(workspace.experts)
    both = {Path(path).with_suffix("") for path in found if Path(path).suffix == ".json"}
    before = {path: time for path, time in found.items() if Path(path).with_suffix("") in both}
    assert before

    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(tiny_study.model_dump(mode="json")), encoding="utf-8")
    result = CliRunner().invoke(main, ["prepare", str(file), "--workspace", str(workspace.root), "--json"])
    assert result.exit_code == 0, result.output
    arrays = json.loads(result.stdout)["arrays"]
    assert [array["shards"] for array in arrays] == [4, 2, 2, 1, 1, 1]
    made = sum(array["made"] for array in arrays)
    assert 0 < made <= 11 - len(before) // 2  # a shard that was being drawn at the interruption may still be written
    after = shards_with_times(workspace.experts)
    assert len(after) == 22 and before.items() <= after.items()

    alone = load_task(tiny_study.data, tiny_study.model, ArrayCache(tmp_path / "alone"), device="cpu")
    with monkeypatch.context() as patched:
        forbid_making(patched)
        taken = load_task(tiny_study.data, tiny_study.model, open_cache(workspace.cache), device="cpu")
    assert taken.fingerprints == alone.fingerprints
    files = sorted((tmp_path / "alone").glob("*.npy"))
    # For each split: pixels and their digest, captions, and the features of captions and of images.
    assert len(files) == 15
    for made in files:
        assert (workspace.cache / made.name).read_bytes() == made.read_bytes()


@RAY_WARNS_OF_ITSELF
def test_undecodable_images_are_reported_at_once(tiny_study: Study, tmp_path: Path, local_ray: None) -> None:
    data = photographs(tmp_path / "data")
    for name in ("0.jpg", "3.jpg"):
        (tmp_path / "data" / "images" / name).write_bytes(b"no image")
    study = tiny_study.model_copy(update={"data": data})
    requests = [one for one in requested_arrays(study, tmp_path) if one.title.endswith("images")]
    shards = ArrayShards(FolderStorage(tmp_path / "store"))
    with pytest.raises(DataError, match=r"0\.jpg: cannot be decoded(?s:.)*3\.jpg: cannot be decoded") as raised:
        prepare_arrays(requests, tiny_study.resources, shards, lambda *_: None)
    assert len(raised.value.faults) == 2
    assert [shards.missing(one.array) for one in requests] == [[0], [0], []]  # six train images, the first is none


@RAY_WARNS_OF_ITSELF
def test_unreadable_images_are_left_out_and_the_others_are_not_decoded_again(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    data = photographs(tmp_path / "data").model_copy(update={"unreadable": "drop"})
    monkeypatch.setattr(array_shards, "SHARD_BYTES", 2 * 3 * data.image_size**2)
    (tmp_path / "data" / "images" / "0.jpg").write_bytes(b"no image")
    workspace = Workspace(tmp_path / "w")
    study = tiny_study.model_copy(update={"data": data})
    shards = ArrayShards(FolderStorage(workspace.experts))
    arrays = prepare_study(study, workspace.cache, shards, lambda *_: None)
    ((file, count),) = left_out_so_far(data, workspace.cache).items()
    assert count == 1 and "cannot identify" in json.loads(Path(file).read_text(encoding="utf-8"))["images"]["0.jpg"]
    assert arrays[0].title == "train images" and arrays[0].rows == 5

    def refuse(*_: object, **__: object) -> Iterator[int]:
        raise AssertionError("it is in the store")

    note_prepared(workspace, FolderStorage(workspace.experts).uri, None)
    alone = load_dataset(data, ArrayCache(tmp_path / "alone"))
    monkeypatch.setattr(dataset, "decode_into", refuse)
    taken = load_dataset(data, open_cache(workspace.cache))
    assert taken.fingerprint == alone.fingerprint and taken.train.left_out == ("0.jpg",)
    assert not list(workspace.experts.rglob("files.json")), "nothing unfinished is left"


def test_rows_of_unfinished_arrays_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = photographs(tmp_path / "data")
    monkeypatch.setattr(array_shards, "SHARD_BYTES", 2 * 3 * data.image_size**2)
    shards = ArrayShards(FolderStorage(tmp_path / "store"))
    before = split_sources(data, tmp_path)[0]
    assert shards.begin(before.pixels) == 2
    rows = np.empty(before.pixels.shape, np.uint8)
    before.image_part(0, 6).fill(rows, shards)
    shards.write(before.pixels, 1, rows[2:4])
    shards.write(before.pixels, 2, rows[4:6])
    before.note_unfinished(shards)

    file = tmp_path / "data" / "images" / "1.jpg"
    file.write_bytes(file.read_bytes() + b"\0")
    after = split_sources(data, tmp_path)[0]
    after.find_kept(shards)
    decoded: list[str] = []
    decode = dataset.decode_image

    def decode_and_note(path: Path, size: int) -> np.ndarray:
        decoded.append(path.name)
        return decode(path, size)

    monkeypatch.setattr(dataset, "decode_image", decode_and_note)
    again = np.empty_like(rows)
    after.image_part(0, 6).fill(again, shards)
    assert sorted(decoded) == ["0.jpg", "1.jpg"], "the first shard was not finished"
    np.testing.assert_array_equal(again, rows)
    after.drop_unfinished(shards)
    assert not shards.storage.names("arrays")


def test_a_file_that_is_replaced_while_it_is_prepared_is_decoded_again(tmp_path: Path) -> None:
    data = photographs(tmp_path / "data")
    shards = ArrayShards(FolderStorage(tmp_path / "store"))
    before = split_sources(data, tmp_path)[0]
    rows = np.empty(before.pixels.shape, np.uint8)
    before.image_part(0, 6).fill(rows, shards)
    shards.begin(before.pixels)
    for number in range(5):
        shards.write(before.pixels, number, rows[number : number + 1])
    image = tmp_path / "data" / "images" / "5.jpg"  # row 3 of the training images
    Image.new("RGB", (9, 9), "red").save(image)
    before.note_unfinished(shards)
    after = split_sources(data, tmp_path)[0]
    after.find_kept(shards)
    again = np.empty_like(rows)
    after.image_part(0, 6).fill(again, shards)
    np.testing.assert_array_equal(again[3], dataset.decode_image(image, data.image_size))
    np.testing.assert_array_equal(np.delete(again, 3, 0), np.delete(rows, 3, 0))


def test_unfinished_arrays_of_other_datasets_are_kept(tmp_path: Path) -> None:
    data, other = (split_sources(photographs(tmp_path / name), tmp_path)[0] for name in ("data", "other"))
    shards = ArrayShards(FolderStorage(tmp_path / "store"))
    rows = np.empty(other.pixels.shape, np.uint8)
    other.image_part(0, 6).fill(rows, shards)
    assert shards.begin(other.pixels) == 1
    for number in range(5):
        shards.write(other.pixels, number, rows[number : number + 1])
    other.note_unfinished(shards)
    before = shards.storage.names("arrays")
    data.drop_unfinished(shards)
    assert shards.storage.names("arrays") == before, "its images are of another dataset"


def test_a_finished_array_is_no_unfinished_one(tmp_path: Path) -> None:
    """Its files could not be read at first, and could be read later, so it keeps its name."""
    data, other = (split_sources(photographs(tmp_path / name), tmp_path)[0] for name in ("data", "other"))
    shards = ArrayShards(FolderStorage(tmp_path / "store"))
    shards.begin(data.pixels)
    data.note_unfinished(shards)
    rows = np.empty(data.pixels.shape, np.uint8)
    data.image_part(0, 6).fill(rows, shards)
    for number in shards.missing(data.pixels):
        shards.write(data.pixels, number, rows[number : number + 1])
    assert not list(shards.unfinished(other.pixels)), "a process that was killed here left only the note"
    data.drop_unfinished(shards)
    names = shards.storage.names("arrays")
    assert len(names) == 13 and not any(name.endswith("files.json") for name in names)


# --- the command --------------------------------------------------------------------------------------------------


def test_faults_of_the_command_are_reported_at_once(tiny_study: Study, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(tiny_study.model_dump(mode="json")), encoding="utf-8")
    options = ["--workspace", str(tmp_path / "w"), "--store", "object-store://experts", "--node-cache", "disk"]
    result = CliRunner().invoke(main, ["prepare", str(file), *options])
    assert result.exit_code == 2
    assert "2 faults found" in result.stderr
    assert "--store: got 'object-store://experts', which ends with its cluster" in result.stderr
    assert "--node-cache: got 'disk'; allowed: an absolute path" in result.stderr
