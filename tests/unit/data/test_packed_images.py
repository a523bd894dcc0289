"""Images in tar files of img2dataset and in data sets of Hugging Face are decoded as single files are."""

import io
import json
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayvldd.config.settings import FileData, FolderData, HuggingFaceData, WebDatasetData
from rayvldd.data.annotations import read_records
from rayvldd.data.array_cache import ArrayCache
from rayvldd.data.dataset import Dataset, load_dataset
from rayvldd.data.hub_datasets import described
from rayvldd.errors import DataError

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


def picture(number: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (20, 10), (20 * number, 0, 255 - 20 * number)).save(written, "PNG")
    return written.getvalue()


CAPTIONS = [[f"A dog {number}", f"A cat {number}"] for number in range(len(SPLITS))]


def write_tar(path: Path, members: dict[str, bytes], mode: Any = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def members_of(numbers: list[int]) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for number in numbers:
        members[f"{number:09d}.json"] = json.dumps({"both": CAPTIONS[number], "one": CAPTIONS[number][0]}).encode()
        members[f"{number:09d}.png"] = picture(number)
        members[f"{number:09d}.txt"] = f"{CAPTIONS[number][0]}\n".encode()
    return members


def as_files(root: Path) -> FolderData:
    """The same pairs as single files."""
    (root / "images").mkdir(parents=True)
    rows = []
    for number, split in enumerate(SPLITS):
        (root / "images" / f"{number}.png").write_bytes(picture(number))
        rows.append({"image": f"{number}.png", "captions": CAPTIONS[number], "split": split})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FolderData(source="folder", root=str(root), image_size=16)


def same_pairs(found: Dataset, expected: Dataset, captions: int = 2) -> None:
    for split in ("train", "val", "test"):
        one, other = getattr(found, split), getattr(expected, split)
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.captions == [text for k, text in enumerate(other.captions) if k % 2 < captions]


def loaded(settings: FileData, tmp_path: Path) -> Dataset:
    return load_dataset(settings, ArrayCache(tmp_path / "cache"))


# --- tar files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A tar file for each split, two for train."""
    root = tmp_path / "shards"
    write_tar(root / "train" / "00000.tar", members_of([0, 1, 2, 3]))
    write_tar(root / "train" / "00001.tar", members_of([4, 5, 6, 7]))
    write_tar(root / "val" / "00000.tar", members_of([8, 9]))
    write_tar(root / "test" / "00000.tar", members_of([10, 11]))
    return root


def test_tar_files_are_decoded_as_single_files_are(shards: Path, tmp_path: Path) -> None:
    expected = loaded(as_files(tmp_path / "files"), tmp_path)
    settings = WebDatasetData(source="webdataset", root=str(shards), shards="{split}/*.tar", image_size=16)
    same_pairs(loaded(settings, tmp_path), expected, captions=1)
    both = settings.model_copy(update={"captions": "json:both"})
    same_pairs(loaded(both, tmp_path), expected)


def test_splits_of_tar_files_are_drawn(shards: Path) -> None:
    settings = WebDatasetData(source="webdataset", root=str(shards), shards="*/*.tar", captions="json:one")
    records = read_records(settings)
    assert Counter(record.split for record in records) == {"train": 10, "val": 1, "test": 1}
    assert records == read_records(settings)
    assert {record.captions for record in records} == {(captions[0],) for captions in CAPTIONS}


def test_records_of_packed_images_can_be_sent(shards: Path) -> None:
    settings = WebDatasetData(source="webdataset", root=str(shards), shards="{split}/*.tar")
    sent = pickle.loads(pickle.dumps(read_records(settings)))
    assert sent[3].packed.read() == picture(3)


def test_a_damaged_image_of_a_tar_file_is_named_and_can_be_left_out(shards: Path, tmp_path: Path) -> None:
    write_tar(shards / "val" / "00000.tar", members_of([8, 9]) | {"000000008.png": b"no image"})
    settings = WebDatasetData(source="webdataset", root=str(shards), shards="{split}/*.tar", image_size=16)
    with pytest.raises(DataError, match=r"val/00000.tar/000000008.png: cannot be decoded"):
        loaded(settings, tmp_path)
    dropped = loaded(settings.model_copy(update={"unreadable": "drop"}), tmp_path)
    assert dropped.val.captions == ["A dog 9"] and dropped.val.left_out == ("val/00000.tar/000000008.png",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": "/data/*.tar"}, r"data.shards: is '/data/\*.tar'; allowed: names in data.root"),
        ({"shards": "../*.tar"}, r"data.shards: is '\.\./\*.tar'; allowed: names in data.root"),
        ({"shards": "*.tgz"}, r"data.shards: no file .*/\*.tgz; allowed: tar files"),
        ({"captions": "json:title"}, "has no key 'title'"),
        ({"captions": "json:missing", "shards": "val/*.tar"}, "has no key 'missing'"),
        ({"captions": "cls", "shards": "*/*.tar"}, "no captions"),
        ({"shards": "val/*.tar"}, "have 2 images to split; allowed: at least 10"),
    ],
)
def test_faults_of_tar_files(shards: Path, changes: dict[str, str], message: str) -> None:
    settings = WebDatasetData(source="webdataset", root=str(shards), shards="{split}/*.tar").model_copy(update=changes)
    with pytest.raises(DataError, match=message):
        read_records(settings)


def test_tar_files_that_cannot_be_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", members_of([0]), "w:gz")
    (tmp_path / "b.tar").write_bytes(b"no tar file" * 100)
    write_tar(tmp_path / "c.tar", {"readme.md": b"x"})
    with pytest.raises(DataError) as caught:
        read_records(WebDatasetData(source="webdataset", root=str(tmp_path)))
    packed, other, empty = map(str, caught.value.faults)
    assert "a.tar: cannot be read" in packed and "without compression" in packed
    assert "b.tar: cannot be read" in other and "c.tar: has no images" in empty


# --- Hugging Face -------------------------------------------------------------------------------------------------


def made(numbers: list[int], captions: Any = None, **columns: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    texts = captions or {"captions": [CAPTIONS[number] for number in numbers]}
    kinds = {
        name: datasets.List(datasets.Value("string")) if isinstance(rows[0], list) else datasets.Value("string")
        for name, rows in (texts | columns).items()
    }
    images = [{"bytes": picture(number), "path": None} for number in numbers]
    features = datasets.Features({"photo": datasets.Image(), **kinds})
    return datasets.Dataset.from_dict({"photo": images, **texts, **columns}, features)


def saved(folder: Path, found: Any) -> HuggingFaceData:
    found.save_to_disk(str(folder))
    return HuggingFaceData(source="huggingface", name=str(folder), image_size=16)


def of_splits(**named: Any) -> Any:
    return pytest.importorskip("datasets").DatasetDict(named)


def test_a_saved_data_set_is_decoded_as_single_files_are(tmp_path: Path) -> None:
    expected = loaded(as_files(tmp_path / "files"), tmp_path)
    whole = of_splits(train=made([*range(8)]), validation=made([8, 9]), test=made([10, 11]))
    same_pairs(loaded(saved(tmp_path / "splits", whole), tmp_path), expected)
    column = made([*range(12)], split=SPLITS)
    same_pairs(loaded(saved(tmp_path / "column", column), tmp_path), expected)
    numbered = made([*range(12)], {f"caption_{k}": [pair[k] for pair in CAPTIONS] for k in range(2)}, split=SPLITS)
    same_pairs(loaded(saved(tmp_path / "numbered", numbered), tmp_path), expected)


def test_missing_splits_are_drawn_from_the_training_images(tmp_path: Path) -> None:
    settings = saved(tmp_path / "one", made([*range(12)]))
    assert Counter(record.split for record in read_records(settings)) == {"train": 10, "val": 1, "test": 1}
    two = saved(tmp_path / "two", of_splits(train=made([*range(10)]), test=made([10, 11])))
    records = read_records(two)
    assert Counter(record.split for record in records) == {"train": 9, "val": 1, "test": 2}
    assert {record.captions[0] for record in records if record.split == "test"} == {"A dog 10", "A dog 11"}
    assert pickle.loads(pickle.dumps(records))[0].packed.read() == picture(0)


def test_an_image_folder_is_read_where_its_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    numbers = {"train": range(8), "validation": range(8, 10), "test": range(10, 12)}
    for split, of_split in numbers.items():
        (tmp_path / "pictures" / split).mkdir(parents=True)
        rows = [{"file_name": f"{number}.png", "text": CAPTIONS[number][0]} for number in of_split]
        for number in of_split:
            (tmp_path / "pictures" / split / f"{number}.png").write_bytes(picture(number))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "pictures" / split / "metadata.jsonl").write_text(text)
    settings = HuggingFaceData(source="huggingface", name=str(tmp_path / "pictures"), image_size=16)
    records = read_records(settings)
    assert records[0].path == tmp_path / "pictures" / "train" / "0.png" and records[0].packed is None
    same_pairs(loaded(settings, tmp_path), loaded(as_files(tmp_path / "files"), tmp_path), captions=1)


@pytest.mark.parametrize("numbers", [(30, 4, 5), (30, 0, 5), (36, 0, 0), (12, 3, 0)])
def test_a_description_tells_the_images_that_are_read(
    numbers: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    (tmp_path / "parquet").mkdir()
    rows = {name: number for name, number in zip(("train", "dev", "testing"), numbers, strict=True) if number}
    for name, number in rows.items():
        made([*range(number)], {"caption": [f"A dog {k}" for k in range(number)]}).to_parquet(
            str(tmp_path / "parquet" / f"{name}.parquet")
        )
    splits = datasets.SplitDict({name: datasets.SplitInfo(name, 1, number) for name, number in rows.items()})
    info = datasets.DatasetInfo(features=made([0], {"caption": ["A dog"]}).features, splits=splits)
    settings = HuggingFaceData(source="huggingface", name=str(tmp_path / "parquet"), image_size=16)
    found = described(settings, info)
    assert found is not None and (found.image, found.captions) == ("photo", ("caption",))
    assert found.num_images == Counter(record.split for record in read_records(settings))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": 30, "elsewhere": 4}, "parquet: unknown split 'elsewhere'; allowed: splits named train"),
        ({"train": 9, "test": 4}, "no split for val, and 9 images to draw it from; allowed: at least 10"),
        ({"val": 9, "test": 4}, "parquet: the split 'train' is empty"),
    ],
)
def test_faults_of_a_description(splits: dict[str, int], message: str) -> None:
    datasets = pytest.importorskip("datasets")
    settings = HuggingFaceData(source="huggingface", name="parquet")
    of_splits = datasets.SplitDict({name: datasets.SplitInfo(name, 1, number) for name, number in splits.items()})
    features = datasets.Features({"photo": datasets.Image(), "text": datasets.Value("string")})
    with pytest.raises(DataError, match=message):
        described(settings, datasets.DatasetInfo(features=features, splits=of_splits))
    column = datasets.Features({**features, "split": datasets.Value("string")})
    of_rows = described(settings, datasets.DatasetInfo(features=column, splits=of_splits))
    assert of_rows is not None and of_rows.num_images is None
    del features["text"]
    with pytest.raises(DataError, match=r"data\.captions: 'train' has no column of captions"):
        described(settings, datasets.DatasetInfo(features=features))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "picture"}, "data.image: .* has no column 'picture' of images; allowed: one of: photo; all columns"),
        ({"captions": ("words",)}, "data.captions: .* has no column 'words'; allowed: columns of texts; all columns"),
        ({"name": "/no/such/folder"}, "data.name: /no/such/folder cannot be opened"),
    ],
)
def test_faults_of_a_data_set(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    settings = saved(tmp_path / "saved", made([*range(12)], split=SPLITS))
    with pytest.raises(DataError, match=message):
        read_records(settings.model_copy(update=changes))


def test_a_data_set_with_too_few_images_or_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no split for val and test, and 4 images to draw it from; allowed: at least 10"
    ):
        read_records(saved(tmp_path / "few", made([*range(4)])))
    with pytest.raises(DataError, match="row 0 of 'train': unknown split 'elsewhere'"):
        read_records(saved(tmp_path / "other", made([*range(4)], split=["elsewhere"] * 4)))


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match="needs the library datasets") as caught:
        read_records(HuggingFaceData(source="huggingface", name="somebody/data"))
    assert "pip install 'rayvldd[datasets]'" in caught.value.next_command


@pytest.mark.parametrize("is_offline", [False, True])  # as HF_HUB_OFFLINE=1 sets it
def test_a_data_set_of_a_hub_that_is_away_is_refused_without_waiting(
    is_offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", is_offline)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    settings = HuggingFaceData(source="huggingface", name="nobody/nothing", config="small", revision="v1")
    with pytest.raises(DataError, match="nobody/nothing: the hub cannot be reached") as caught:
        read_records(settings)
    assert waits == []
    saving = 'datasets.load_dataset("nobody/nothing", "small", revision="v1").save_to_disk'
    assert f"python -c 'import datasets; {saving}" in str(caught.value)
    assert "name: FOLDER" in caught.value.next_command
