"""Tables of captions become JSON lines that the folder source reads; every fault of a table is named with its line."""

import json
from pathlib import Path

import pytest

from rayvldd.config.settings import FolderData
from rayvldd.data.annotations import read_records
from rayvldd.data.caption_tables import convert_caption_table
from rayvldd.errors import DataError

NAMES = [f"{number:02d}.jpg" for number in range(20)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(b"not decoded here")
    return folder


def converted(text: str, images: Path, encoding: str = "utf-8") -> tuple[dict[str, int], dict[str, dict[str, object]]]:
    table, out = images.parent / "captions.csv", images.parent / "captions.jsonl"
    table.write_bytes(text.encode(encoding))
    counts = convert_caption_table(table, images, out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    return dict(counts), {row["image"]: row for row in rows}


FORMS = {
    "Flickr8k": "image,caption\n" + "".join(f'{name},"A dog, {name}"\n{name},A cat\n' for name in NAMES),
    "Flickr30K": "image_name| comment_number| comment\n"
    + "".join(f"{name}| 0| A dog, {name}\n{name}| 1| A cat\n" for name in NAMES),
    "tabs": "Caption\tFile_Name\n" + "".join(f"A dog, {name}\t{name}\nA cat\t{name}\n" for name in NAMES),
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_that_people_have(form: str, images: Path) -> None:
    counts, rows = converted(FORMS[form], images, "utf-8-sig")
    assert counts == {"train": 16, "val": 2, "test": 2}
    assert {name: row["captions"] for name, row in rows.items()} == {
        name: [f"A dog, {name}", "A cat"] for name in NAMES
    }
    again = converted(FORMS[form], images)[1]
    assert again == rows, "the same table is split the same way"


def test_the_result_is_a_dataset(images: Path) -> None:
    converted(FORMS["Flickr8k"], images)
    data = FolderData(source="folder", root=str(images.parent), images=str(images))
    records = read_records(data)
    assert len(records) == 20 and records[0].captions == ("A dog, 00.jpg", "A cat")


def test_splits_of_the_table_are_kept_and_captions_keep_their_characters(images: Path) -> None:
    splits = ["train"] * 18 + ["val", "test"]
    lines = [f'{name},"one\nline \u2028 and “more”",{split}\n' for name, split in zip(NAMES, splits, strict=True)]
    counts, rows = converted("image,caption,split\n" + "".join(lines), images)
    assert counts == {"train": 18, "val": 1, "test": 1}
    assert [rows[name]["split"] for name in NAMES] == splits
    assert rows[NAMES[0]]["captions"] == ["one\nline \u2028 and “more”"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,words\na,b\n", "line 1: has the columns name, words; allowed: a header with image or "),
        ("", "line 1: has the columns none"),
        ("image,caption\n", "has no rows below its header"),
        ("image,caption\n00.jpg,\n,A dog\n", "line 2: has no caption.*line 3: has no image"),
        ("image,caption\n00.jpeg,A dog\n", "line 2: no such image file: .*00.jpeg"),
        ("image,caption,split\n00.jpg,A dog,dev\n", "line 2: unknown split 'dev'; allowed: train, val, test"),
        ("image,caption,split\n00.jpg,A,val\n00.jpg,B,test\n", "line 3: 00.jpg is in test, and in val before"),
        ("image,caption\n00.jpg,A dog\n", "has 1 images to split; allowed: at least 10 images, or a column"),
    ],
)
def test_faults_are_named_with_their_lines_and_nothing_is_written(text: str, message: str, images: Path) -> None:
    with pytest.raises(DataError, match=f"(?s){message}"):
        converted(text, images)
    assert not (images.parent / "captions.jsonl").exists()


def test_a_file_that_is_no_text(images: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*; allowed: a text file in UTF-8"):
        converted("image,caption\n00.jpg,é\n", images, "latin-1")
