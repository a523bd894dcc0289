"""Loading of datasets: memory-mapped pixels from the cache, captions in memory, and a fingerprint of both."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Bool, Int64, UInt8
from PIL import ExifTags, Image

from rayvldd.config.settings import DataSettings, FileData, HuggingFaceData, ToyScenesData, WebDatasetData
from rayvldd.data.annotations import SPLITS, Record, SplitName, read_records
from rayvldd.data.array_cache import ArrayCache, ArrayDescription, fingerprint
from rayvldd.data.decoded_images import DecodedImages
from rayvldd.data.toy_scenes import (
    CAPTIONS_PER_SCENE,
    LONGEST_CAPTION,
    draw_into,
    drawing_fingerprint,
    iterate_scenes,
    num_scenes,
)
from rayvldd.data.unreadable import (
    UnreadableImages,
    UnreadableImagesError,
    by_split,
    drops_unreadable,
    fault_of_image,
    is_damage,
    readable,
)
from rayvldd.errors import message_of
from rayvldd.records.json_values import JsonValue

OnProgress = Callable[[str, int, int], None]
"""Called with the current activity, the number of finished items and their total."""

_DECODING_VERSION = 1
"""Increased with every change of the decoding, so that caches of earlier versions are not read."""
DECODING: dict[str, JsonValue] = {
    "resampling": "bicubic",
    "decoding_version": _DECODING_VERSION,
    "pillow": PIL.__version__,  # decoders differ by a grey level between releases
}
"""Everything apart from the file and the size that determines an image's pixels."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> transposition that makes the image upright."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a dataset: images, and captions in the order of their images."""

    name: str
    """``train``, ``val`` or ``test``."""
    image_names: list[str]
    """Displayed names, unique within the dataset."""
    pixels: UInt8[np.ndarray, "image 3 height width"]
    """RGB, memory-mapped and read-only."""
    captions: list[str]
    """The captions of the first image, then those of the second, and so on."""
    caption_image: Int64[np.ndarray, " caption"]
    """Index of each caption's image."""
    left_out: tuple[str, ...] = ()
    """Names of the images that cannot be decoded and are left out."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three splits of a dataset."""

    train: Split
    val: Split
    test: Split
    fingerprint: str
    """Hash of the content: pixels, captions and splits. It is the same on every machine with the same data."""


def load_dataset(settings: DataSettings, cache: ArrayCache, on_progress: OnProgress | None = None) -> Dataset:
    """Load a dataset; its images are decoded or drawn in the first call and read from the cache afterwards.

    Args:
        settings: Source, paths and image size of the dataset.
        cache: Cache of the pixels.
        on_progress: Called while images are decoded, drawn or fetched.

    Raises:
        DataError: listing every fault of the annotations, or every image that cannot be decoded and is not left out.
        StoreError: if the cache folder cannot be written.
    """
    if isinstance(settings, ToyScenesData):
        splits = [_drawn_split(settings, name, cache, on_progress) for name in SPLITS]
    else:
        records = by_split(read_records(settings))
        splits = [_readable_split(settings, name, records[name], cache, on_progress) for name in SPLITS]
    content = [[split.name, split.image_names, split.captions, split.caption_image.tolist()] for split, _ in splits]
    named = fingerprint({"content": content, "pixels": [digest for _, digest in splits]})
    train, val, test = (split for split, _ in splits)
    return Dataset(train, val, test, named)


def _split(name: str, image_names: list[str], pixels: np.ndarray, captions: list[tuple[str, ...]]) -> Split:
    counts = [len(of_image) for of_image in captions]
    caption_image = np.repeat(np.arange(len(captions), dtype=np.int64), counts)
    return Split(name, image_names, pixels, [caption for of_image in captions for caption in of_image], caption_image)


def pixels_array(key: Mapping[str, JsonValue], num_images: int, size: int) -> ArrayDescription:
    """Describe the cached array of a split's decoded or drawn images, uint8 ``[image, 3, size, size]``."""
    return ArrayDescription("pixels", key, (num_images, 3, size, size), "uint8")


def _cached_pixels(
    cache: ArrayCache,
    array: ArrayDescription,
    make: Callable[[np.ndarray], None],
    split: str,
    on_progress: OnProgress | None,
) -> tuple[np.ndarray, str]:
    """Return the cached pixels and their digest, which is cached as well: hashing gigabytes takes seconds."""

    def report(done: int) -> None:
        if on_progress:
            on_progress(f"fetching {split} images", done, array.shape[0])

    pixels = cache.get_or_make(array.kind, array.key, array.shape, array.dtype, make, report)

    def hash_into(digest: np.ndarray) -> None:
        digest[:] = np.frombuffer(hashlib.sha256(pixels.data).digest(), dtype=np.uint8)

    digest = cache.get_or_make("pixels-sha256", array.key, (32,), np.uint8, hash_into)
    return pixels, digest.tobytes().hex()


# --- drawn scenes -------------------------------------------------------------------------------------------------


def _drawn_split(
    settings: ToyScenesData, name: str, cache: ArrayCache, on_progress: OnProgress | None
) -> tuple[Split, str]:
    captions = _drawn_captions(settings, name, cache)
    array = drawn_pixels_array(settings, name)

    def draw(pixels: np.ndarray) -> None:
        for done in draw_into(pixels, iterate_scenes(settings, name)):
            if on_progress:
                on_progress(f"drawing {name} scenes", done, len(captions))

    pixels, digest = _cached_pixels(cache, array, draw, name, on_progress)
    image_names = [f"{name}-{number:05d}" for number in range(len(captions))]
    return _split(name, image_names, pixels, captions), digest


def _drawn_captions(settings: ToyScenesData, split: str, cache: ArrayCache) -> list[tuple[str, ...]]:
    """Captions of each scene; cached, because generating 2,000 scenes takes two seconds."""
    count = num_scenes(settings, split)

    def fill(rows: np.ndarray) -> None:
        texts = [caption.encode("ascii") for scene in iterate_scenes(settings, split) for caption in scene.captions]
        rows[:] = np.array(texts, dtype=f"S{LONGEST_CAPTION}").view(np.uint8).reshape(rows.shape)

    shape = (count * CAPTIONS_PER_SCENE, LONGEST_CAPTION)
    rows = cache.get_or_make("captions", _drawn_key(settings, split), shape, np.uint8, fill)
    scenes = rows.view(f"S{LONGEST_CAPTION}").reshape(count, CAPTIONS_PER_SCENE).tolist()
    return [tuple(caption.decode("ascii") for caption in captions) for captions in scenes]


def drawn_pixels_array(settings: ToyScenesData, split: str) -> ArrayDescription:
    """Describe the cached array of the pixels of a split's toy scenes."""
    key = {**_drawn_key(settings, split), "size": settings.image_size}
    return pixels_array(key, num_scenes(settings, split), settings.image_size)


def _drawn_key(settings: ToyScenesData, split: str) -> dict[str, JsonValue]:
    """Everything that determines the scenes of a split."""
    return {
        "drawing": drawing_fingerprint(),
        "seed": settings.seed,
        "split": split,
        "scenes": num_scenes(settings, split),
    }


# --- image files --------------------------------------------------------------------------------------------------


def _readable_split(
    settings: FileData,
    name: SplitName,
    records: list[Record],
    cache: ArrayCache,
    on_progress: OnProgress | None,
) -> tuple[Split, str]:
    """Decode a split, without its unreadable images if the settings allow that."""
    if not drops_unreadable(settings):
        return _decoded_split(settings, name, records, cache, on_progress)
    listed = unreadable_images(cache.shared_folder, name, records, settings.image_size)
    while True:  # every round but the last finds further images to leave out
        kept = readable(name, records, listed)
        try:
            split, digest = _decoded_split(settings, name, kept, cache, on_progress)
        except UnreadableImagesError as error:
            if not error.may_be_dropped:
                raise
            listed.add(error.unreadable)
        else:
            names = {record.image for record in kept}
            left_out = tuple(record.image for record in records if record.image not in names)
            return replace(split, left_out=left_out), digest


def unreadable_images(folder: Path, split: SplitName, records: list[Record], size: int) -> UnreadableImages:
    """The list of images of a split that are left out.

    Args:
        folder: Folder of the workspace's cache.
        split: Name of the split.
        records: All records of the split.
        size: Side of the images, in pixels.
    """
    return UnreadableImages(folder, split, decoded_pixels_array(split, records, size))


def _decoded_split(
    settings: FileData,
    name: SplitName,
    records: list[Record],
    cache: ArrayCache,
    on_progress: OnProgress | None,
) -> tuple[Split, str]:
    array = decoded_pixels_array(name, records, settings.image_size)

    def decode(pixels: np.ndarray) -> None:
        # The folder of the images, because another dataset would replace the saved images of this one.
        images = place_of_images(settings)
        key = {"images": images, "split": name, "size": settings.image_size, **DECODING}
        unfinished = DecodedImages(cache.folder, key)
        files = [(str(record.path), *file_state(record)) for record in records]
        decoded = unfinished.fill(pixels, files)
        try:
            for done in decode_into(pixels, records, decoded=decoded):
                if on_progress:
                    on_progress(f"decoding {name} images", done, len(records))
        except BaseException:  # a damaged file, or Ctrl-C
            if isinstance(pixels, np.memmap):
                unfinished.save(pixels, files, decoded)
            raise
        unfinished.remove()

    pixels, digest = _cached_pixels(cache, array, decode, name, on_progress)
    return _split(name, [record.image for record in records], pixels, [record.captions for record in records]), digest


def decoded_pixels_array(split: str, records: list[Record], size: int) -> ArrayDescription:
    """Describe the cached array of a split's image files, identified by names, sizes and modification times."""
    files = [[record.image, *file_state(record)] for record in records]
    key: dict[str, JsonValue] = {
        "files": fingerprint(files),
        "split": split,
        "size": size,
        **DECODING,
    }
    return pixels_array(key, len(records), size)


def place_of_images(settings: FileData) -> str:
    """The folder or data set that the images of a dataset come from."""
    if isinstance(settings, HuggingFaceData):
        return settings.name
    if isinstance(settings, WebDatasetData):
        return str(Path(settings.root, settings.shards))
    return str(Path(settings.root, settings.images))


def file_state(record: Record) -> tuple[int, int]:
    """Size and modification time of a record's image; both change with its content."""
    return (record.packed.size, record.packed.time) if record.packed else size_and_time(record.path)


def size_and_time(path: Path) -> tuple[int, int]:
    """Size of a file in bytes, and its modification time in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def decode_into(
    pixels: UInt8[np.ndarray, "image 3 height width"],
    records: Sequence[Record],
    num_threads: int | None = None,
    decoded: Bool[np.ndarray, " image"] | None = None,
) -> Iterator[int]:
    """Decode all images in threads, because Pillow releases the GIL; yield the number of finished images.

    Args:
        pixels: Receives the images.
        records: One record for each row of ``pixels``.
        num_threads: Default: one for each CPU that this process may use.
        decoded: Images that need not be decoded; updated as images are decoded.

    Raises:
        UnreadableImagesError: at the end, listing every image that cannot be decoded.
    """
    size = pixels.shape[-1]
    marks = np.zeros(len(records), dtype=bool) if decoded is None else decoded

    def decode_one(index: int) -> Exception | None:
        try:
            pixels[index] = _decoded(records[index], size)
            marks[index] = True
        except Exception as error:  # Pillow's decoders raise many types of errors for damaged files
            return error
        return None

    faults, unreadable = [], {}
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(num_threads or num_cpus)
    try:
        missing = np.flatnonzero(~marks).tolist()
        errors = zip(missing, pool.map(decode_one, missing), strict=True)
        for done, (index, error) in enumerate(errors, start=1 + len(records) - len(missing)):
            if error:
                faults.append(fault_of_image(records[index], error))
                if is_damage(error):
                    unreadable[records[index].image] = message_of(error)
            yield done
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the remaining images
    if faults:
        raise UnreadableImagesError(faults, unreadable)


def _decoded(record: Record, size: int) -> UInt8[np.ndarray, "3 size size"]:
    if record.packed is None:
        return decode_image(record.path, size)
    with Image.open(BytesIO(record.packed.read())) as opened:
        return decode_opened(opened, size)


def decode_image(path: Path, size: int) -> UInt8[np.ndarray, "3 size size"]:
    """Decode an image upright, as RGB on white, and resize it to a square by bicubic interpolation.

    Args:
        path: The image file.
        size: Height and width of the result, in pixels. The aspect ratio is not kept.

    Raises:
        ValueError: if the image has more than 8 bits per channel.
        OSError: if Pillow cannot decode the file.
    """
    with Image.open(path) as opened:
        return decode_opened(opened, size)


def decode_opened(opened: Image.Image, size: int) -> UInt8[np.ndarray, "3 size size"]:
    """Decode an opened image; see :func:`decode_image`."""
    if opened.mode.startswith(("I", "F")):
        raise ValueError(f"mode {opened.mode}: more than 8 bits per channel")
    image = _upright(opened)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


def _upright(opened: Image.Image) -> Image.Image:
    """Copy of an image, rotated by its EXIF orientation. Other EXIF entries are ignored, as viewers do."""
    opened.load()
    try:
        turn = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an unreadable EXIF block has no orientation
        turn = None
    return opened.copy() if turn is None else opened.transpose(turn)
