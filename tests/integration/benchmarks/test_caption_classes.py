"""Class folders that are made from captions."""

import json
from pathlib import Path

from caption_classes import MOST_IMAGES, WORDS, class_of, make_folders


def test_a_class_needs_three_captions_and_no_other_class() -> None:
    others = ["it is outside", "a sunny day"]
    assert class_of(["A dog runs", "two puppies", "the DOGS", *others]) == "dog"
    assert class_of(["A dog runs", "two puppies", "nothing", *others]) is None
    assert class_of(["a dog by a pool", "dog, pool", "the dog's pool", *others]) is None
    assert class_of(["hotdogs", "hotdogs", "hotdogs"]) is None


def test_held_out_images_are_copied_up_to_a_number(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(3 * MOST_IMAGES):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(str(number).encode())
        split = ("train", "val", "test")[number % 3]
        lines.append(json.dumps({"image": f"{number}.jpg", "captions": ["a dog"] * 5, "split": split}))
    captions = tmp_path / "captions.jsonl"
    captions.write_text("\n".join(lines), encoding="utf-8")
    counts = make_folders(captions, tmp_path / "images", tmp_path / "pictures")
    assert counts == {**dict.fromkeys(WORDS, 0), "dog": MOST_IMAGES}
    copied = sorted(int(file.stem) for file in (tmp_path / "pictures" / "dog").iterdir())
    assert copied == [number for number in range(3 * MOST_IMAGES) if number % 3][:MOST_IMAGES]
