"""Three formats of annotations with the same result; every fault of a dataset in one message."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import FLICKR8K

from rayvldd.config.settings import BlipData, FileData, FolderData, KarpathyData
from rayvldd.data.annotations import Record, read_records
from rayvldd.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"never opened")


def write_lines(root: Path, *entries: Any) -> FolderData:
    """Write a JSON-lines dataset; texts go in as they are."""
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return FolderData(source="folder", root=str(root))


def entry(image: str, split: str, *captions: Any) -> dict[str, Any]:
    return {"image": image, "captions": list(captions) or ["A dog ."], "split": split}


def faults_of(settings: FileData) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_records(settings)
    assert "rayvldd check" in caught.value.next_command
    return [str(fault) for fault in caught.value.faults]


# --- JSON lines ---------------------------------------------------------------------------------------------------


def test_folder(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg", "deep/c.jpg")
    settings = write_lines(
        tmp_path, entry("b.jpg", "test", " Ein Hund. ", "Two."), "", entry("a.jpg", "train"), entry("deep/c.jpg", "val")
    )
    assert read_records(settings) == [
        Record("b.jpg", tmp_path / "images" / "b.jpg", ("Ein Hund.", "Two."), "test"),
        Record("a.jpg", tmp_path / "images" / "a.jpg", ("A dog .",), "train"),
        Record("deep/c.jpg", tmp_path / "images" / "deep/c.jpg", ("A dog .",), "val"),
    ]


def test_all_faults_of_a_folder_at_once(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    settings = write_lines(
        tmp_path,
        entry("a.jpg", "train"),
        '{"image": "b.jpg", "captions"',
        entry("missing.jpg", "val"),
        entry("b.jpg", "valid", "Fine.", "   "),
        entry("a.jpg", "test"),
        {"image": "c.jpg", "captions": [], "split": "test"},
        {"captions": "A dog.", "split": "test"},
        '["a list"]',
        entry("c.jpg", "val", 5),
    )
    file = tmp_path / "captions.jsonl"
    assert faults_of(settings) == [
        f"{file} line 2: not JSON: Expecting ':' delimiter at column 30; "
        'allowed: {"image": "NAME.jpg", "captions": ["..."], "split": "train"}',
        f"{file} line 3: no such image file: {tmp_path}/images/missing.jpg",
        f"{file} line 4: unknown split 'valid' (did you mean 'val'?); allowed: train, val, test",
        f"{file} line 4: captions[1]: is empty; allowed: a text with at least one word",
        f"{file} line 5: duplicate image 'a.jpg'; first at {file} line 1; allowed: each image once",
        f"{file} line 6: no captions; allowed: a list with at least one text",
        f"{file} line 7: image is None; allowed: the name of an image file",
        f"{file} line 7: captions is 'A dog.'; allowed: a list with at least one text",
        f'{file} line 8: is [\'a list\']; allowed: {{"image": "NAME.jpg", "captions": ["..."], "split": "train"}}',
        f"{file} line 9: captions[0]: is 5; allowed: a text",
        f"{file} line 9: duplicate image 'c.jpg'; first at {file} line 6; allowed: each image once",
    ]


def test_an_empty_split(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg")
    settings = write_lines(tmp_path, entry("a.jpg", "train"), entry("b.jpg", "train"))
    assert faults_of(settings) == [
        f"{tmp_path}: the split {split!r} is empty (2 images in train); allowed: at least one image per split"
        for split in ("val", "test")
    ]


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").touch()
    faults = faults_of(FolderData(source="folder", root=str(tmp_path)))
    assert faults[0].startswith(f"{tmp_path}: the split 'train' is empty (0 images in no split)")


def test_a_missing_folder(tmp_path: Path) -> None:
    (fault,) = faults_of(FolderData(source="folder", root=str(tmp_path / "nowhere")))
    assert fault.startswith(f"data.root: no such folder: {tmp_path}/nowhere")


def test_a_missing_annotation_file_names_the_nearest(tmp_path: Path) -> None:
    touch(tmp_path, "caption.jsonl")
    (fault,) = faults_of(FolderData(source="folder", root=str(tmp_path)))
    assert fault.startswith(
        f"data.annotations: no such file: {tmp_path}/captions.jsonl (did you mean 'caption.jsonl'?)"
    )


def test_many_faults_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    touch(tmp_path / "images", "other.jpg")
    settings = write_lines(tmp_path, *[entry(f"{number}.jpg", "train") for number in range(500)])
    with pytest.raises(DataError) as caught:
        read_records(settings)
    assert len(caught.value.faults) == 500
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("500 faults found")
    assert lines[-2].strip() == "and 480 more"
    assert len(lines) < 25


def test_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path / "data" / "images", "a.jpg", "b.jpg", "c.jpg")
    splits = zip("abc", ("train", "val", "test"), strict=True)
    write_lines(tmp_path / "data", *[entry(f"{name}.jpg", split) for name, split in splits])
    assert len(read_records(FolderData(source="folder", root="~/data"))) == 3


# --- Karpathy -----------------------------------------------------------------------------------------------------


def write_karpathy(root: Path, entries: Any, **settings: Any) -> KarpathyData:
    (root / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return KarpathyData(source="karpathy", root=str(root), annotations="dataset_coco.json", **settings)


def karpathy_image(name: str, split: str, folder: str = "", **changes: Any) -> dict[str, Any]:
    sentences = [{"raw": f"About {name}.\n", "tokens": []}, {"raw": "Second.", "tokens": []}]
    image = {"filename": name, "split": split, "sentences": sentences, "imgid": 0}
    return image | ({"filepath": folder} if folder else {}) | changes


@pytest.mark.parametrize(("restval", "train_images"), [("train", ["a.jpg", "val2014/r.jpg"]), ("drop", ["a.jpg"])])
def test_karpathy(tmp_path: Path, restval: str, train_images: list[str]) -> None:
    touch(tmp_path / "pictures", "a.jpg", "v.jpg", "val2014/r.jpg", "val2014/t.jpg")
    images = [
        karpathy_image("a.jpg", "train"),
        karpathy_image("r.jpg", "restval", "val2014"),
        karpathy_image("v.jpg", "val"),
        karpathy_image("t.jpg", "test", "val2014"),
    ]
    records = read_records(write_karpathy(tmp_path, images, images="pictures", restval=restval))
    assert [record.image for record in records if record.split == "train"] == train_images
    assert records[-1] == Record(
        "val2014/t.jpg", tmp_path / "pictures/val2014/t.jpg", ("About t.jpg.", "Second."), "test"
    )


def test_all_faults_of_a_karpathy_file_at_once(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    images = [
        karpathy_image("a.jpg", "train", sentences=[{"raw": " "}, {"tokens": ["no", "raw"]}]),
        karpathy_image("b.jpg", "dev"),
        karpathy_image("c.jpg", "val", sentences=None),
        "text",
    ]
    file = tmp_path / "dataset_coco.json"
    assert faults_of(write_karpathy(tmp_path, images)) == [
        f"{file} images[0]: captions[0]: is empty; allowed: a text with at least one word",
        f"{file} images[0]: captions[1]: is None; allowed: a text",
        f"{file} images[1]: unknown split 'dev'; allowed: train, val, test",
        f"{file} images[2]: no captions; allowed: a list with at least one text",
        f"{file} images[3]: is 'text'; allowed: an object with filename, sentences and split",
    ]


def test_a_file_that_is_no_karpathy_split(tmp_path: Path) -> None:
    (fault,) = faults_of(write_karpathy(tmp_path, None))
    assert fault.startswith(f"{tmp_path}/dataset_coco.json: has no list 'images'")


def test_json_that_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"images":\n [{"filename"')
    (fault,) = faults_of(KarpathyData(source="karpathy", root=str(tmp_path), annotations="x.json"))
    assert fault.startswith(f"{tmp_path}/x.json line 2: not JSON")


# --- BLIP ---------------------------------------------------------------------------------------------------------


def write_blip(root: Path, **files: Any) -> BlipData:
    for split, content in files.items():
        (root / f"coco_karpathy_{split}.json").write_text(json.dumps(content))
    return BlipData(source="blip", root=str(root), annotations="coco_karpathy_{split}.json")


def test_blip_groups_the_training_captions_by_image(tmp_path: Path) -> None:
    touch(tmp_path, "train2014/a.jpg", "train2014/b.jpg", "val2014/v.jpg", "val2014/t.jpg")
    train = [
        {"image": "train2014/a.jpg", "caption": "One.", "image_id": "1"},
        {"image": "train2014/b.jpg", "caption": "Other.", "image_id": "2"},
        {"image": "train2014/a.jpg", "caption": "Two.", "image_id": "1"},
    ]
    val = [{"image": "val2014/v.jpg", "caption": ["Three.", "Four."]}]
    test = [{"image": "val2014/t.jpg", "caption": ["Five."]}]
    records = read_records(write_blip(tmp_path, train=train, val=val, test=test))
    assert [(record.image, record.captions, record.split) for record in records] == [
        ("train2014/a.jpg", ("One.", "Two."), "train"),
        ("train2014/b.jpg", ("Other.",), "train"),
        ("val2014/v.jpg", ("Three.", "Four."), "val"),
        ("val2014/t.jpg", ("Five.",), "test"),
    ]


@pytest.mark.parametrize("pattern", ["{split}{split:>9999999999}", "{split}{other}", "{split}{", "{split}{0}"])
def test_nothing_but_the_name_of_the_split_is_filled_into_a_file_name(tmp_path: Path, pattern: str) -> None:
    data = BlipData(source="blip", root=str(tmp_path), annotations=pattern)
    with pytest.raises(DataError, match="no such file"):
        read_records(data)


def test_all_faults_of_blip_files_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "v.jpg")
    train = [{"image": "a.jpg", "caption": "One."}, {"image": "a.jpg", "caption": " "}, {"caption": "No image."}]
    val = [{"image": "v.jpg", "caption": ["Fine."]}, {"image": "a.jpg", "caption": ["Seen in train."]}]
    first = tmp_path / "coco_karpathy_train.json"
    assert sorted(faults_of(write_blip(tmp_path, train=train, val=val))) == sorted(
        [
            f"{first} [2]: image is None; allowed: the name of an image file",
            f"{first} [2]: captions is 'No image.'; allowed: a list with at least one text",
            f"{first} [0]: captions[1]: is empty; allowed: a text with at least one word",
            f"{tmp_path}/coco_karpathy_val.json [1]: duplicate image 'a.jpg'; first at {first} [0]; "
            "allowed: each image once",
            f"data.annotations: no such file: {tmp_path}/coco_karpathy_test.json (did you mean "
            "'coco_karpathy_train.json'?); allowed: the annotation file, relative to data.root",
        ]
    )


# --- the real photographs -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason=f"no real photographs at {FLICKR8K}")
def test_flickr8k() -> None:
    records = read_records(FolderData(source="folder", root=str(FLICKR8K)))
    counts = {split: sum(record.split == split for record in records) for split in ("train", "val", "test")}
    assert counts == {"train": 5999, "val": 500, "test": 500}
    assert all(len(record.captions) == 5 for record in records)
