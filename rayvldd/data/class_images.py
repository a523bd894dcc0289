"""Labelled images for zero-shot classification: a folder with a folder of images for each class, or a saved data set.

The class folders are those of torchvision's ``ImageFolder``. A data set of Hugging Face that was saved to disk needs a
column of images and one of labels; of several splits the test split is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from rayvldd.data.array_cache import ArrayCache, fingerprint
from rayvldd.data.dataset import DECODING, decode_opened, size_and_time
from rayvldd.data.hub_datasets import INSTALL_LIBRARY, SAVED
from rayvldd.errors import DataError, Fault, message_of
from rayvldd.records.json_values import JsonValue

if TYPE_CHECKING:
    import datasets

_SPLITS = ("test", "validation", "val", "train")
"""Preferred split of a saved data set with several, the first that it has."""
_NEXT = "correct the folder, and repeat the command"


@dataclass(frozen=True)
class ClassImages:
    """Images with one class each, not decoded yet."""

    folder: Path
    classes: tuple[str, ...]
    """Names of the classes for prompts, in alphabetical order."""
    labels: Int64[np.ndarray, " image"]
    """Index of each image's class."""
    names: tuple[str, ...]
    """Displayed name of each image."""
    opened: Callable[[int], Image.Image]
    """Opens an image by its index."""
    identity: JsonValue
    """Everything that determines the images: sizes and times of files, or the fingerprint of the data set."""

    def pixels(self, size: int, cache: ArrayCache, report: Callable[[int], None] | None = None) -> np.ndarray:
        """Return the cached images, uint8 ``[image, 3, size, size]``, or decode them.

        Args:
            size: Side of the images, in pixels.
            cache: Cache of the pixels.
            report: Called with the number of decoded images.

        Raises:
            DataError: listing every image that cannot be decoded.
        """

        def decode(out: np.ndarray) -> None:
            faults = []
            for index, name in enumerate(self.names):
                try:
                    out[index] = self._decoded(index, size)
                except Exception as error:  # Pillow's decoders raise many types of errors for damaged files
                    faults.append(_undecodable(self.folder / name, error))
                if report:
                    report(index + 1)
            if faults:
                raise DataError(faults, next_command=_NEXT)

        key: dict[str, JsonValue] = {"images": fingerprint(self.identity), "size": size, **DECODING}
        return cache.get_or_make("pixels", key, (len(self.names), 3, size, size), np.uint8, decode)

    def _decoded(self, index: int, size: int) -> UInt8[np.ndarray, "3 size size"]:
        with self.opened(index) as image:
            return decode_opened(image, size)


def read_class_images(folder: Path) -> ClassImages:
    """List the images of a folder and open each, without decoding them.

    Raises:
        DataError: if there are fewer than two classes, a class without images, or a file that is no image.
    """
    if not folder.is_dir():
        fault = Fault(str(folder), "no such folder", "a folder with a folder of images for each class")
        raise DataError([fault], next_command=_NEXT)
    if any((folder / name).is_file() for name in SAVED):
        return _of_saved(folder)
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if len(folders) < 2:
        words = f"has one class folder, {folders[0].name!r}" if folders else "has no class folders"
        raise DataError([Fault(str(folder), words, "at least two folders, each with the images of a class")])
    files, labels, faults = [], [], []
    for label, of_class in enumerate(folders):
        found = [path for path in sorted(of_class.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        if not found:
            faults.append(Fault(str(of_class), "a class without images", "at least one image"))
        files += found
        labels += [label] * len(found)
    for file in files:
        try:
            Image.open(file).close()
        except Exception as error:
            faults.append(_undecodable(file, error))
    if faults:
        raise DataError(faults, next_command=_NEXT)
    names = tuple(str(file.relative_to(folder)) for file in files)
    identity: list[JsonValue] = [[name, *size_and_time(file)] for name, file in zip(names, files, strict=True)]
    classes = tuple(_readable(path.name) for path in folders)
    return ClassImages(folder, classes, np.array(labels), names, lambda index: Image.open(files[index]), identity)


def _of_saved(folder: Path) -> ClassImages:
    """The images of a data set that ``save_to_disk`` has written."""
    try:
        import datasets
    except ImportError as error:
        problem = f"a data set of Hugging Face, and the library datasets cannot be imported: {error}"
        fault = Fault(str(folder), problem, "class folders; or the library")
        raise DataError([fault], next_command=INSTALL_LIBRARY) from None
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises errors of many other libraries
        fault = Fault(str(folder), f"not readable: {message_of(error)}", "a data set that save_to_disk has written")
        raise DataError([fault], next_command=_NEXT) from None
    if isinstance(found, datasets.DatasetDict):
        name = next((name for name in _SPLITS if name in found), next(iter(found)))
        found = found[name]
    image, label = (
        [name for name, kind in found.features.items() if isinstance(kind, wanted)]
        for wanted in (datasets.Image, datasets.ClassLabel)
    )
    if len(image) != 1 or len(label) != 1:
        problem = f"has {len(image)} columns of images and {len(label)} of class labels"
        raise DataError([Fault(str(folder), problem, "one Image column and one ClassLabel column")], next_command=_NEXT)
    return _of_columns(folder, found, image[0], label[0])


def _of_columns(folder: Path, found: "datasets.Dataset", image: str, label: str) -> ClassImages:
    labels = np.array(found[label], dtype=np.int64)
    classes = [*found.features[label].names]
    faults = [
        Fault(str(folder), f"a class without images: {name!r}", "at least one image for each class")
        for number, name in enumerate(classes)
        if number not in labels
    ]
    if len(classes) < 2:
        faults = [Fault(str(folder), f"has {len(classes)} class", "at least two classes")]
    if not np.isin(labels, np.arange(len(classes))).all():
        faults.append(Fault(str(folder), f"images without a class in {label!r}", "a class for each image"))
    if faults:
        raise DataError(faults, next_command=_NEXT)
    names = tuple(f"{image} {index}" for index in range(len(found)))

    def opened(index: int) -> Image.Image:
        picture: Image.Image = found[index][image]
        return picture

    return ClassImages(folder, tuple(map(_readable, classes)), labels, names, opened, found._fingerprint)


def _readable(name: str) -> str:
    """A folder's or label's name as words: ``hot_dog`` is ``hot dog``."""
    return name.replace("_", " ").strip()


def _undecodable(file: Path, error: Exception) -> Fault:
    return Fault(str(file), f"cannot be decoded: {message_of(error)}", "an image that Pillow can open")
