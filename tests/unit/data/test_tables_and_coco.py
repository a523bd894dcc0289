"""Captions as Flickr and COCO publish them are read without conversion, and missing splits are drawn."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rayvldd.config.settings import CocoData, TableData
from rayvldd.data.annotations import Record, read_records
from rayvldd.errors import DataError

NAMES = [f"{number:02d}.jpg" for number in range(20)]
SPLITS = ["train"] * 16 + ["val"] * 2 + ["test"] * 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("images", "train2017", "val2017", "annotations"):
        (tmp_path / folder).mkdir()
    for name in NAMES:
        (tmp_path / "images" / name).write_bytes(b"not decoded here")
    return tmp_path


def read_text(root: Path, text: str, name: str = "captions.csv", **settings: Any) -> list[Record]:
    (root / name).write_text(text, encoding="utf-8")
    return read_records(TableData(source="table", root=str(root), annotations=name, **settings))


def counts(records: list[Record]) -> dict[str, int]:
    return dict(Counter(record.split for record in records))


ROWS = {
    "Flickr8k": "image,caption\n" + "".join(f'{name},"A dog, {name}"\n{name},A cat\n' for name in NAMES),
    "Flickr30k of Kaggle": "image_name| comment_number| comment\n"
    + "".join(f"{name}| 0| A dog, {name}\n{name}| 1   A cat\n" for name in NAMES),
    "tokens": "".join(f"{name}#0\tA dog, {name}\n{name}#1\tA cat\n" for name in NAMES),
    "metadata.jsonl": "".join(
        json.dumps({"file_name": name, "text": text}) + "\n" for name in NAMES for text in (f"A dog, {name}", "A cat")
    ),
    "lists in JSON lines": "".join(
        json.dumps({"file_name": name, "captions": [f"A dog, {name}", "A cat"]}) + "\n" for name in NAMES
    ),
}


@pytest.mark.parametrize("form", ROWS)
def test_files_without_splits(root: Path, form: str) -> None:
    records = read_text(root, ROWS[form])
    assert [(record.image, record.captions) for record in records] == [
        (name, (f"A dog, {name}", "A cat")) for name in NAMES
    ]
    assert counts(records) == {"train": 16, "val": 2, "test": 2}
    assert read_text(root, ROWS[form]) == records
    others = [read_text(root, ROWS[form], split_seed=seed) for seed in (1, 2)]
    assert any([record.split for record in other] != [record.split for record in records] for other in others)
    assert counts(read_text(root, ROWS[form], held_out=0.25)) == {"train": 10, "val": 5, "test": 5}


def test_flickr30k_with_a_list_of_captions_and_splits(root: Path) -> None:
    """The table ``flickr_annotations_30k.csv``."""
    rows = "".join(
        f'"[""A dog."", ""A \\""cat\\"" ""]","[{number}, 1]",{split},{name},{number}\n'
        for number, (name, split) in enumerate(zip(NAMES, SPLITS, strict=True))
    )
    records = read_text(root, f"raw,sentids,split,filename,img_id\n{rows}")
    assert [record.split for record in records] == SPLITS
    assert {record.captions for record in records} == {("A dog.", 'A "cat"')}


def test_quotation_marks_between_bars_are_text(root: Path) -> None:
    text = "image_name| comment_number| comment\n" + "".join(f'{name}| 0| "A dog" barks\n' for name in NAMES)
    assert {record.captions for record in read_text(root, text)} == {('"A dog" barks',)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,words\na,b\n", "line 1: has the columns name, words; allowed: a header with image or "),
        ("image,caption\n00.jpg,A dog\n", "has 1 images to split; allowed: at least 10 images, or a column"),
        ('{"file_name": "00.jpg", "text": "x"}\n{\n', r"line 2: is '\{'; allowed: a JSON object"),
        ("image,caption,split\n00.jpg,A,val\n00.jpg,B,test\n", "line 3: 00.jpg is in test, and in val before"),
        ("image,caption,split\n00.jpg,A,dev\n", "line 2: unknown split 'dev'"),
        ("image,caption,split\n00.jpg,,val\n", r"line 2: captions\[0\]: is empty"),
        ("image,caption,split\n00.jpeg,A,val\n", r"no such image file: .*00.jpeg \(did you mean '00.jpg'\?\)"),
    ],
)
def test_faults_of_a_table(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_text(root, text)


# --- COCO ---------------------------------------------------------------------------------------------------------


def write_coco(root: Path, file: str, folder: str, numbers: range, **changes: Any) -> None:
    for number in numbers:
        (root / folder / f"{number:012d}.jpg").write_bytes(b"not decoded here")
    content = {
        "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in numbers],
        "annotations": [
            {"image_id": number, "id": 10 * number + one, "caption": f"{text} {number}"}
            for one, text in enumerate(("A dog", "A cat"))
            for number in numbers
        ],
    }
    (root / "annotations" / file).write_text(json.dumps({**content, **changes}), encoding="utf-8")


def test_coco_tests_on_its_validation_images(root: Path) -> None:
    write_coco(root, "captions_train2017.json", "train2017", range(40))
    write_coco(root, "captions_val2017.json", "val2017", range(100, 104))
    records = read_records(CocoData(source="coco", root=str(root)))
    assert counts(records) == {"train": 38, "val": 2, "test": 4}
    assert {record.path for record in records if record.split == "test"} == {
        root / "val2017" / f"{number:012d}.jpg" for number in range(100, 104)
    }
    assert records[7].captions == ("A dog 7", "A cat 7") and records[7].image == "train2017/000000000007.jpg"
    assert all(record.path.is_file() for record in records)


def test_coco_without_a_second_file_draws_the_test_split_too(root: Path) -> None:
    write_coco(root, "captions_train2017.json", "train2017", range(40))
    settings = CocoData(source="coco", root=str(root), test_annotations=None, held_out=0.25)
    assert counts(read_records(settings)) == {"train": 20, "val": 10, "test": 10}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1}]}, r"images\[0\]: is \{'id': 1\}; allowed: an object with id and file_name"),
        ({"annotations": [{"image_id": 99, "caption": "x"}]}, r"annotations\[0\]: is .*; allowed: .* of an image"),
        ({"images": [{"id": 1, "file_name": "a"}] * 2}, r"images\[1\]: duplicate id 1"),
        ({"annotations": [{"image_id": 3, "caption": "x"}]}, "has 1 images to split; allowed: at least 10"),
    ],
)
def test_faults_of_coco(root: Path, changes: Any, message: str) -> None:
    write_coco(root, "captions_train2017.json", "train2017", range(20), **changes)
    with pytest.raises(DataError, match=message):
        read_records(CocoData(source="coco", root=str(root), test_annotations=None))


def test_a_missing_file_of_test_captions_is_named_with_its_setting(root: Path) -> None:
    write_coco(root, "captions_train2017.json", "train2017", range(20))
    with pytest.raises(DataError, match=r"data.test_annotations: no such file: .*captions_val2017.json"):
        read_records(CocoData(source="coco", root=str(root)))
