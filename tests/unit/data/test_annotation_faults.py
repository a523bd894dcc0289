"""Annotations are read as they are written, an image is the file it resolves to, and other formats are named."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from rayvldd.config.settings import BlipData, CocoData, FileData, FolderData, KarpathyData, TableData
from rayvldd.data.annotations import read_records
from rayvldd.errors import DataError

NAMES = {"a.jpg": "train", "b.jpg": "val", "c.jpg": "test"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in NAMES:
        (tmp_path / "images" / name).write_bytes(b"never opened")
    return tmp_path


def line(image: str, split: str, *captions: str, **more: Any) -> str:
    return json.dumps({"image": image, "captions": list(captions) or ["A dog."], "split": split, **more})


def folder(root: Path, text: str | bytes, name: str = "captions.jsonl") -> FolderData:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return FolderData(source="folder", root=str(root), annotations=name)


def faults_of(settings: FileData) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_records(settings)
    str(caught.value).encode()  # it can be printed
    return [str(fault) for fault in caught.value.faults]


LINES = [line(name, split) for name, split in NAMES.items()]

# --- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_line_ends_of_editors_are_understood(root: Path, ending: str, mark: str) -> None:
    assert len(read_records(folder(root, mark + ending.join(LINES) + ending))) == 3


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x7f"])
def test_a_character_that_python_ends_lines_at_ends_none(root: Path, inside: str) -> None:
    written = json.dumps({"image": "a.jpg", "captions": [f"A{inside}dog."], "split": "train"}, ensure_ascii=False)
    records = read_records(folder(root, "\n".join([written, *LINES[1:]])))
    assert records[0].captions == (f"A{inside}dog.",)


@pytest.mark.parametrize(
    ("text", "position", "half"), [("Cut \ud83d", 4, "d83d"), ("\ude00 cut", 0, "de00"), ("\ude00\ud83d", 0, "de00")]
)
def test_half_a_character_is_a_fault_that_names_line_and_caption(
    root: Path, text: str, position: int, half: str
) -> None:
    lines = [LINES[0], line("b.jpg", "val", "Fine \U0001f600.", text), LINES[2]]
    (fault,) = faults_of(folder(root, "\n".join(lines)))
    assert "line 2: captions[1]: " in fault and f"\\u{half}, at position {position}" in fault


def test_half_a_character_in_every_format(root: Path) -> None:
    entry = {"filename": "a.jpg", "sentences": [{"raw": "Cut \ud83d"}], "split": "train"}
    (root / "k.json").write_text(json.dumps({"images": [entry]}))
    (fault,) = faults_of(KarpathyData(source="karpathy", root=str(root), annotations="k.json"))
    assert "images[0]: captions[0]: has half a character" in fault
    for split in ("train", "val", "test"):
        (root / f"{split}.json").write_text(json.dumps([{"image": f"{split}.jpg", "caption": "Cut \ud83d"}]))
    faults = faults_of(BlipData(source="blip", root=str(root), annotations="{split}.json", images="images"))
    assert sum("[0]: captions[0]: has half a character" in fault for fault in faults) == 3


def test_an_image_name_with_half_a_character(root: Path) -> None:
    faults = faults_of(folder(root, "\n".join([line("a\ud83d.jpg", "train"), *LINES[1:]])))
    assert len(faults) == 1 and "the name of an image file" in faults[0]


def test_a_whole_emoji_in_escapes_is_one_character(root: Path) -> None:
    (record, *_) = read_records(folder(root, "\n".join([line("a.jpg", "train", "\U0001f600 grin"), *LINES[1:]])))
    assert record.captions == ("\U0001f600 grin",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\n".join(LINES).encode("utf-16"), "byte order mark of UTF-16"),
        (b"\xe9t\xe9", "cannot be read: 'utf-8' codec"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        (f'{{"image": {"9" * 5000}}}', "not JSON: Exceeds the limit"),
        (line("a\0.jpg", "train"), "no such image file"),
        (line("a" * 300 + ".jpg", "train"), "no such image file"),
    ],
)
def test_text_that_is_no_annotation_is_a_fault(root: Path, content: str | bytes, expected: str) -> None:
    assert expected in faults_of(folder(root, content))[0]


# --- which file an image is ----------------------------------------------------------------------------------------


def test_one_file_under_two_names_is_reported_with_both_places(root: Path) -> None:
    (root / "images" / "link.jpg").symlink_to("a.jpg")
    again = ["./a.jpg", str(root / "images" / "a.jpg"), "link.jpg", "x/../a.jpg"]
    (root / "images" / "x").mkdir()
    faults = faults_of(folder(root, "\n".join(LINES + [line(name, "test") for name in again])))
    assert len(faults) == 4
    for number, (name, fault) in enumerate(zip(again, faults, strict=True), start=4):
        assert f"line {number}: duplicate image {name!r} under another name; first at " in fault
        assert fault.endswith("captions.jsonl line 1; allowed: each image file once")


def test_a_copy_of_an_image_is_another_image_whether_or_not_the_disk_keeps_it_once(root: Path) -> None:
    os.link(root / "images" / "a.jpg", root / "images" / "hard.jpg")
    assert len(read_records(folder(root, "\n".join([*LINES, line("hard.jpg", "test")])))) == 4


@pytest.mark.parametrize("name", ["../secret.jpg", "x/../../secret.jpg", "/etc/hostname"])
def test_an_image_outside_of_the_folder_is_refused(root: Path, name: str) -> None:
    (root / "secret.jpg").write_bytes(b"")
    (fault,) = faults_of(folder(root, "\n".join([*LINES, line(name, "test")])))
    assert "is outside of" in fault


def test_a_folder_of_images_may_be_a_link_to_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("disk")
    (root / "images" / "a.jpg").rename(elsewhere / "a.jpg")
    (root / "images" / "a.jpg").symlink_to(elsewhere / "a.jpg")
    assert len(read_records(folder(root, "\n".join(LINES)))) == 3


def test_a_missing_file_names_the_one_that_is_meant(root: Path) -> None:
    images = root / "images"
    (images / "a.jpg").rename(images / unicodedata.normalize("NFD", "caf\u00e9.jpg"))
    (images / "b.jpg").rename(images / "B.JPG")
    lines = [line("caf\u00e9.jpg", "train"), line("b.jpg", "val"), line("c.png", "test")]
    one, other, third = faults_of(folder(root, "\n".join(lines)))
    assert "did you mean 'cafe\\u0301.jpg', the same letters in another Unicode form?" in one
    assert "did you mean 'B.JPG'?" in other and "did you mean 'c.jpg'?" in third


def test_names_that_begin_at_the_root_are_one_fault(root: Path) -> None:
    for number in range(9):
        (root / "images" / f"{number}.jpg").write_bytes(b"")
    lines = [line(f"images/{number}.jpg", "train") for number in range(9)]
    (fault,) = faults_of(folder(root, "\n".join([*lines, *LINES])))
    assert "line 1: no such image file" in fault and "data.images: '.'" in fault and "8 more such names" in fault


def test_a_missing_folder_of_images_is_one_fault(root: Path) -> None:
    settings = folder(root, "\n".join(LINES)).model_copy(update={"images": "pictures"})
    assert faults_of(settings) == [
        f"data.images: no such folder: {root}/pictures; allowed: the folder that image names are relative to; "
        "itself relative to data.root"
    ]


# --- other formats -------------------------------------------------------------------------------------------------

KARPATHY = json.dumps({"images": [{"filename": "a.jpg", "sentences": [{"raw": "x"}], "split": "train"}]})
COCO = json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]})
BLIP = json.dumps([{"image": "a.jpg", "caption": "x"}])
FORMATS = {
    "coco": (COCO, "COCO's original captions file", "data.source: coco"),
    "coco_indented": (json.dumps(json.loads(COCO), indent=1), "COCO's original captions file", "data.source: coco"),
    "karpathy": (KARPATHY, "Karpathy's splits", "data.source: karpathy"),
    "blip": (BLIP, "in BLIP's format", "data.source: blip"),
    "folder": ("\n".join(LINES), "one JSON object per line", "data.source: folder"),
    "folder_of_one": (LINES[0], "one JSON object per line", "data.source: folder"),
    "hugging_face": ('{"file_name": "a.jpg", "text": "x"}\n' * 3, "Hugging Face", "data.source: table"),
    "kaggle_flickr30k": ("image_name| comment_number| comment\na.jpg| 0| x\n", "Flickr30k's", "data.source: table"),
    "kaggle_flickr8k": ("image,caption\na.jpg,x\n", "Flickr8k's", "data.source: table"),
    "tokens": ("a.jpg#0\tA dog .\na.jpg#1\tTwo .\n", "Flickr's original", "data.source: table"),
    "list": (f"[{', '.join(LINES)}]", "one JSON list", "one line per image"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", ["folder", "karpathy", "blip", "table", "coco"])
def test_a_file_of_another_format_is_one_fault_that_names_it(root: Path, name: str, source: str) -> None:
    text, known_as, read_by = FORMATS[name]
    if name.removesuffix("_of_one").removesuffix("_indented") == source or read_by == f"data.source: {source}":
        pytest.skip("its own")
    for split in ("train", "val", "test"):
        (root / f"{split}.json").write_text(text, encoding="utf-8")
    settings: FileData
    if source == "blip":
        settings = BlipData(source="blip", root=str(root), annotations="{split}.json")
    elif source == "coco":
        settings = CocoData(source="coco", root=str(root), annotations="train.json", test_annotations=None)
    else:
        kind = {"folder": FolderData, "karpathy": KarpathyData, "table": TableData}[source]
        settings = kind(source=source, root=str(root), annotations="train.json")
    fault, *others = faults_of(settings)
    assert len(others) == (2 if source == "blip" else 0)
    assert fault.startswith(f"data.annotations: {root}/train.json is ") and known_as in fault
    assert read_by in fault.partition("allowed: ")[2]
