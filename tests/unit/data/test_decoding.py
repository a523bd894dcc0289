"""Decoding: images are rotated as in viewers, and decoded images are kept when a file is damaged."""

import errno
import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from rayvldd.config.settings import FolderData
from rayvldd.data import dataset
from rayvldd.data.array_cache import ArrayCache
from rayvldd.data.dataset import decode_image, load_dataset
from rayvldd.data.left_out import left_out_so_far, lines_of_left_out
from rayvldd.errors import DataError

# --- which side is up ----------------------------------------------------------------------------------------------


def picture() -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, size=(20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / "x.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "x.png")).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 16), np.asarray(upright).transpose(2, 0, 1))


def with_exif(jpeg: bytes, *entries: tuple[int, int, int, bytes]) -> bytes:
    """Put an EXIF block of raw entries (tag, type, count, value) into a JPEG."""
    listed = b"".join(struct.pack("<HHI", *head) + value for *head, value in entries)
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + listed + struct.pack("<I", 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    "entries",
    [
        (TURNED, (0x11A, 2, 4, b"72\0\0")),  # a resolution that is a text
        ((0x101, 9, 1, struct.pack("<i", -7)), TURNED),  # a height below 0
    ],
)
def test_an_exif_block_that_cannot_be_written_again_turns_the_image(
    tmp_path: Path, entries: tuple[tuple[int, int, int, bytes], ...]
) -> None:
    file = io.BytesIO()
    picture().save(file, "JPEG")
    (tmp_path / "x.jpg").write_bytes(with_exif(file.getvalue(), *entries))
    (tmp_path / "plain.jpg").write_bytes(file.getvalue())
    turned = Image.open(tmp_path / "plain.jpg").transpose(Image.Transpose.ROTATE_270)
    expected = np.asarray(turned.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.jpg", 16), expected)


def test_an_exif_block_that_cannot_be_read_turns_nothing(tmp_path: Path) -> None:
    file = io.BytesIO()
    picture().save(file, "JPEG")
    block = b"Exif\0\0nonsense"
    raw = file.getvalue()
    (tmp_path / "x.jpg").write_bytes(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + raw[2:])
    (tmp_path / "plain.jpg").write_bytes(raw)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.jpg", 16), decode_image(tmp_path / "plain.jpg", 16))


# --- a damaged file ------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are decoded, in any order."""
    names: list[str] = []
    original = dataset.decode_image

    def remember(path: Path, size: int) -> np.ndarray:
        names.append(path.name)
        return original(path, size)

    monkeypatch.setattr(dataset, "decode_image", remember)
    return names


def folder_of(root: Path, count: int) -> FolderData:
    (root / "images").mkdir()
    lines = []
    for number in range(count):
        split = "val" if number == count - 2 else "test" if number == count - 1 else "train"
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, size=(24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        lines.append(f'{{"image": "{number}.png", "captions": ["A."], "split": "{split}"}}\n')
    (root / "captions.jsonl").write_text("".join(lines))
    return FolderData(source="folder", root=str(root), image_size=16)


def test_after_a_damaged_file_is_replaced_it_alone_is_decoded(tmp_path: Path, decoded: list[str]) -> None:
    settings, cache = folder_of(tmp_path, 12), ArrayCache(tmp_path / "cache")
    sound = (tmp_path / "images" / "4.png").read_bytes()
    (tmp_path / "images" / "4.png").write_bytes(sound[:-300])
    with pytest.raises(DataError, match=r"images/4.png: cannot be decoded"):
        load_dataset(settings, cache)
    assert sorted(decoded) == sorted(f"{number}.png" for number in range(10))
    decoded.clear()
    with pytest.raises(DataError, match=r"images/4.png: cannot be decoded"):
        load_dataset(settings, cache)
    assert decoded == ["4.png"]
    decoded.clear()
    (tmp_path / "images" / "4.png").write_bytes(sound)
    found = load_dataset(settings, cache)
    assert sorted(decoded) == ["10.png", "11.png", "4.png"]
    assert not list((tmp_path / "cache").glob("decoded-*"))
    afresh = load_dataset(settings, ArrayCache(tmp_path / "other"))
    np.testing.assert_array_equal(found.train.pixels, afresh.train.pixels)
    assert found.fingerprint == afresh.fingerprint


def test_unreadable_images_can_be_left_out(tmp_path: Path, decoded: list[str]) -> None:
    settings, cache = folder_of(tmp_path, 12), ArrayCache(tmp_path / "cache")
    settings = settings.model_copy(update={"unreadable": "drop"})
    sound = (tmp_path / "images" / "4.png").read_bytes()
    (tmp_path / "images" / "4.png").write_bytes(sound[:-300])
    found = load_dataset(settings, cache)
    assert found.train.left_out == ("4.png",) and not found.val.left_out and len(found.train.pixels) == 9
    assert sorted(decoded) == sorted(f"{number}.png" for number in range(12)), "each was decoded once"
    ((file, count),) = left_out_so_far(settings, cache.folder).items()
    assert count == 1 and "truncated" in json.loads(Path(file).read_text())["images"]["4.png"]
    decoded.clear()
    assert load_dataset(settings, cache).fingerprint == found.fingerprint and not decoded

    lines = (tmp_path / "captions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "captions.jsonl").write_text("".join(line for line in lines if '"4.png"' not in line))
    without = load_dataset(settings.model_copy(update={"unreadable": "refuse"}), cache)
    assert without.fingerprint == found.fingerprint and not decoded, "the same data under the same name"

    (tmp_path / "captions.jsonl").write_text("".join(lines))
    (tmp_path / "images" / "4.png").write_bytes(sound)
    assert not load_dataset(settings, cache).train.left_out, "a file that was replaced is used"


def test_a_file_that_cannot_be_read_for_now_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = folder_of(tmp_path, 6).model_copy(update={"unreadable": "drop"})

    def fail(path: Path, size: int) -> np.ndarray:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(dataset, "decode_image", fail)
    with pytest.raises(DataError, match="Input/output error"):
        load_dataset(settings, ArrayCache(tmp_path / "cache"))
    assert not left_out_so_far(settings, tmp_path / "cache")


def test_a_split_with_no_readable_image_is_refused(tmp_path: Path) -> None:
    settings = folder_of(tmp_path, 6).model_copy(update={"unreadable": "drop"})
    (tmp_path / "images" / "4.png").write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(DataError, match=r"no image of the split 'val' can be decoded") as raised:
            load_dataset(settings, ArrayCache(tmp_path / "cache"))
        assert "replace the image files" in raised.value.next_command


def test_images_that_are_left_out_are_counted_in_words() -> None:
    assert lines_of_left_out({"a.json": 1, "b.json": 2}) == [
        "1 image cannot be decoded and is left out (data.unreadable: drop): a.json",
        "2 images cannot be decoded and are left out (data.unreadable: drop): b.json",
    ]


def test_decoded_images_of_changed_files_are_not_reused(tmp_path: Path, decoded: list[str]) -> None:
    settings, cache = folder_of(tmp_path, 6), ArrayCache(tmp_path / "cache")
    sound = (tmp_path / "images" / "0.png").read_bytes()
    (tmp_path / "images" / "0.png").write_bytes(b"damaged")
    with pytest.raises(DataError):
        load_dataset(settings, cache)
    (tmp_path / "images" / "0.png").write_bytes(sound)
    os.utime(tmp_path / "images" / "1.png", (1, 1))
    decoded.clear()
    load_dataset(settings, cache)
    assert {"0.png", "1.png"} <= set(decoded) and "2.png" not in decoded


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"pixels": 3, "files": 4}', b'{"pixels": "../x", "files": []}'])
def test_a_damaged_index_costs_time_and_nothing_else(tmp_path: Path, damage: bytes) -> None:
    settings, cache = folder_of(tmp_path, 6), ArrayCache(tmp_path / "cache")
    sound = (tmp_path / "images" / "0.png").read_bytes()
    (tmp_path / "images" / "0.png").write_bytes(b"damaged")
    with pytest.raises(DataError):
        load_dataset(settings, cache)
    (tmp_path / "images" / "0.png").write_bytes(sound)
    (index,) = (tmp_path / "cache").glob("decoded-*.json")
    index.write_bytes(damage)
    assert load_dataset(settings, cache).train.pixels.any(axis=(1, 2, 3)).all()


def test_an_interruption_keeps_decoded_images(tmp_path: Path, decoded: list[str]) -> None:
    settings, cache = folder_of(tmp_path, 40), ArrayCache(tmp_path / "cache")

    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset(settings, cache, interrupt)
    first = set(decoded)
    decoded.clear()
    found = load_dataset(settings, cache)
    assert len(first) >= 20 and len(first & set(decoded)) == 0
    afresh = load_dataset(settings, ArrayCache(tmp_path / "other"))
    np.testing.assert_array_equal(found.train.pixels, afresh.train.pixels)


def test_another_interrupted_dataset_does_not_replace_decoded_images(tmp_path: Path, decoded: list[str]) -> None:
    cache, found = ArrayCache(tmp_path / "cache"), []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        found.append(folder_of(tmp_path / name, 6))
        damaged = tmp_path / name / "images" / "0.png"
        sound = damaged.read_bytes()
        damaged.write_bytes(b"damaged")
        with pytest.raises(DataError):
            load_dataset(found[-1], cache)
        damaged.write_bytes(sound)
    for settings in reversed(found):
        decoded.clear()
        load_dataset(settings, cache)
        assert sorted(decoded) == ["0.png", "4.png", "5.png"], "the other three training images had been decoded"
