"""Class folders and saved data sets: classes in order, and folders that are refused before any work."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayvldd.data.array_cache import ArrayCache
from rayvldd.data.class_images import read_class_images
from rayvldd.errors import DataError

COLOURS = {"red": (255, 0, 0), "hot_dog": (0, 255, 0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with two and one images of one colour each."""
    for name, count in (("red", 2), ("hot_dog", 1)):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 10), COLOURS[name]).save(tmp_path / "classes" / name / f"{number}.png")
    return tmp_path / "classes"


def test_classes_are_in_order_and_their_names_are_words(folder: Path, tmp_path: Path) -> None:
    found = read_class_images(folder)
    assert found.classes == ("hot dog", "red")
    assert found.labels.tolist() == [0, 1, 1]
    pixels = found.pixels(8, ArrayCache(tmp_path / "cache"))
    assert pixels.shape == (3, 3, 8, 8)
    assert np.array_equal(pixels[:, :, 0, 0], [COLOURS["hot_dog"], COLOURS["red"], COLOURS["red"]])


@pytest.mark.parametrize("splits", [False, True])
def test_a_saved_data_set_has_the_same_classes(folder: Path, tmp_path: Path, splits: bool) -> None:
    datasets = pytest.importorskip("datasets")
    images = [str(path) for path in (folder / "red" / "0.png", folder / "hot_dog" / "0.png")]
    columns = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["red", "hot_dog"])})
    made = datasets.Dataset.from_dict({"img": images, "kind": [0, 1]}, columns)
    saved = datasets.DatasetDict({"train": made.select([0]), "test": made}) if splits else made
    saved.save_to_disk(str(tmp_path / "saved"))
    found = read_class_images(tmp_path / "saved")
    assert found.classes == ("red", "hot dog") and found.labels.tolist() == [0, 1]
    pixels = found.pixels(4, ArrayCache(tmp_path / "cache"))
    assert np.array_equal(pixels[:, :, 0, 0], [COLOURS["red"], COLOURS["hot_dog"]])


def test_a_saved_data_set_without_labels_is_refused(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"kind": [0, 1]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="has 0 columns of images and 0 of class labels"):
        read_class_images(tmp_path / "saved")


def test_folders_without_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_class_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no class folders"):
        read_class_images(folder / "red")
    (tmp_path / "one" / "red").mkdir(parents=True)
    with pytest.raises(DataError, match="has one class folder, 'red'"):
        read_class_images(tmp_path / "one")


def test_all_faulty_classes_and_files_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "red" / "notes.txt").write_text("no image")
    with pytest.raises(DataError) as caught:
        read_class_images(folder)
    assert [(Path(fault.where).name, fault.problem[:20]) for fault in caught.value.faults] == [
        ("empty", "a class without imag"),
        ("notes.txt", "cannot be decoded: c"),
    ]


def test_an_image_that_is_cut_off_is_named_when_it_is_decoded(folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "red" / "2.png")
    whole = (folder / "red" / "2.png").read_bytes()
    (folder / "red" / "2.png").write_bytes(whole[: len(whole) // 2])
    found = read_class_images(folder)
    with pytest.raises(DataError, match=r"2\.png: cannot be decoded"):
        found.pixels(8, ArrayCache(tmp_path / "cache"))
