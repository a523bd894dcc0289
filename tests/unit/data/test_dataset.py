"""Cached datasets: decoded once, made again when a file changes, named by their content."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paths import FLICKR8K
from PIL import Image

from rayvldd.config.settings import FolderData, ToyScenesData
from rayvldd.data import dataset
from rayvldd.data.array_cache import ArrayCache
from rayvldd.data.dataset import decode_image, load_dataset
from rayvldd.data.toy_scenes import draw_split
from rayvldd.errors import DataError

DRAWN = ToyScenesData(source="toy_scenes", image_size=16, num_train=6, num_val=3, num_test=2)


def make_folder(root: Path) -> FolderData:
    """Write six images of one colour each with one or two captions."""
    (root / "images").mkdir(parents=True)
    lines = []
    for number in range(6):
        name = f"{number}.png"
        Image.new("RGB", (40, 20), (number * 40, 0, 255)).save(root / "images" / name)
        split = ("train", "train", "train", "train", "val", "test")[number]
        captions = [f"Image {number}."] + (["More."] if number % 2 else [])
        lines.append(json.dumps({"image": name, "captions": captions, "split": split}))
    (root / "captions.jsonl").write_text("\n".join(lines))
    return FolderData(source="folder", root=str(root), image_size=16)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The image files that were decoded since the test began."""
    paths: list[Path] = []

    def remember(path: Path, size: int) -> np.ndarray:
        paths.append(path)
        return decode_image(path, size)

    monkeypatch.setattr(dataset, "decode_image", remember)
    return paths


def test_captions_know_their_images(tmp_path: Path) -> None:
    data = load_dataset(make_folder(tmp_path / "data"), ArrayCache(tmp_path / "cache"))
    assert (data.train.name, data.val.name, data.test.name) == ("train", "val", "test")
    assert data.train.image_names == ["0.png", "1.png", "2.png", "3.png"]
    assert data.train.captions == ["Image 0.", "Image 1.", "More.", "Image 2.", "Image 3.", "More."]
    assert data.train.caption_image.tolist() == [0, 1, 1, 2, 3, 3]
    assert data.val.captions == ["Image 4."]
    assert data.train.pixels.shape == (4, 3, 16, 16)
    np.testing.assert_array_equal(data.train.pixels[2, :, 5, 5], [80, 0, 255])
    assert isinstance(data.train.pixels, np.memmap) and not data.train.pixels.flags.writeable


def test_images_are_decoded_once(tmp_path: Path, decoded: list[Path]) -> None:
    settings, cache = make_folder(tmp_path / "data"), ArrayCache(tmp_path / "cache")
    first = load_dataset(settings, cache)
    assert len(decoded) == 6
    second = load_dataset(settings, cache)
    assert len(decoded) == 6
    assert first.fingerprint == second.fingerprint


def test_a_changed_image_is_decoded_again(tmp_path: Path, decoded: list[Path]) -> None:
    settings, cache = make_folder(tmp_path / "data"), ArrayCache(tmp_path / "cache")
    before = load_dataset(settings, cache)
    Image.new("RGB", (40, 20), (1, 2, 3)).save(tmp_path / "data" / "images" / "4.png")
    after = load_dataset(settings, cache)
    assert [path.name for path in decoded[6:]] == ["4.png"]  # the other splits stay as they were
    assert after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(after.val.pixels[0, :, 0, 0], [1, 2, 3])


def test_a_copy_of_the_data_has_the_same_fingerprint(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "cache")
    here = load_dataset(make_folder(tmp_path / "here"), cache)
    settings = make_folder(tmp_path / "there")
    for file in (tmp_path / "there" / "images").iterdir():
        os.utime(file, (0, 0))
    assert load_dataset(settings, cache).fingerprint == here.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"captions": ["Another text."]},
        {"captions": ["Image 0.", "Image 0."]},
        {"split": "val"},
    ],
)
def test_captions_and_splits_are_in_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    settings, cache = make_folder(tmp_path / "data"), ArrayCache(tmp_path / "cache")
    before = load_dataset(settings, cache)
    file = tmp_path / "data" / "captions.jsonl"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(first) | change), *others]))
    assert load_dataset(settings, cache).fingerprint != before.fingerprint


def test_image_size_is_in_the_fingerprint(tmp_path: Path) -> None:
    settings, cache = make_folder(tmp_path / "data"), ArrayCache(tmp_path / "cache")
    larger = load_dataset(settings.model_copy(update={"image_size": 20}), cache)
    assert larger.train.pixels.shape == (4, 3, 20, 20)
    assert larger.fingerprint != load_dataset(settings, cache).fingerprint


def test_every_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    settings, cache = make_folder(tmp_path / "data"), ArrayCache(tmp_path / "cache")
    images = tmp_path / "data" / "images"
    (images / "1.png").write_bytes(b"no image at all")
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:60])
    with pytest.raises(DataError, match="2 faults found") as caught:
        load_dataset(settings, cache)
    assert [fault.where for fault in caught.value.faults] == [str(images / "1.png"), str(images / "3.png")]
    assert all("cannot be decoded" in fault.problem for fault in caught.value.faults)
    assert not list((tmp_path / "cache").glob("pixels-*.npy"))


def test_progress_is_reported(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    load_dataset(make_folder(tmp_path / "data"), ArrayCache(tmp_path / "cache"), lambda *step: steps.append(step))
    assert steps[:4] == [("decoding train images", done, 4) for done in (1, 2, 3, 4)]
    assert steps[-1] == ("decoding test images", 1, 1)


def test_drawn_scenes_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ArrayCache(tmp_path)
    first = load_dataset(DRAWN, cache)
    pixels, captions = draw_split(DRAWN, "val")
    np.testing.assert_array_equal(first.val.pixels, pixels)
    assert first.val.captions == [caption for of_image in captions for caption in of_image]
    assert first.val.image_names == ["val-00000", "val-00001", "val-00002"]
    for maker in ("draw_into", "iterate_scenes"):
        monkeypatch.setattr(dataset, maker, None)  # would fail if anything were made again
    again = load_dataset(DRAWN, cache)
    assert again.fingerprint == first.fingerprint and again.val.captions == first.val.captions
    monkeypatch.undo()
    assert load_dataset(DRAWN.model_copy(update={"seed": 1}), cache).fingerprint != first.fingerprint


# --- decoding -----------------------------------------------------------------------------------------------------


def test_decoding_is_bicubic_and_squeezes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, size=(30, 50, 3), dtype=np.uint8))
    image.save(tmp_path / "x.png")
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 16), expected)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb_on_white(
    tmp_path: Path, mode: str, colour: Any, expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (10, 10), colour).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 16)[:, 8, 8], expected)


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (10, 10), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "x.png", transparency=b"\x00\xff")
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 16)[:, 8, 8], [255, 255, 255])


def test_a_photograph_taken_sideways_is_turned(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "black")
    image.paste((255, 255, 255), (0, 0, 20, 20))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    image.save(tmp_path / "x.png", exif=exif)
    pixels = decode_image(tmp_path / "x.png", 16)
    assert pixels[0, 2].min() > 200 and pixels[0, 13].max() < 50


def test_deep_images_are_refused_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        decode_image(tmp_path / "x.png", 16)


# --- the real photographs -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason=f"no real photographs at {FLICKR8K}")
def test_flickr8k(tmp_path: Path) -> None:
    lines = (FLICKR8K / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    few = [next(i for i in lines if json.loads(i)["split"] == split) for split in ("train", "val", "test")]
    (tmp_path / "captions.jsonl").write_text("\n".join(few), encoding="utf-8")
    settings = FolderData(source="folder", root=str(tmp_path), images=str(FLICKR8K / "images"), image_size=96)
    data = load_dataset(settings, ArrayCache(tmp_path / "cache"))
    assert data.train.pixels.shape == (1, 3, 96, 96)
    assert data.train.pixels.std() > 20
    assert len(data.train.captions) == 5
