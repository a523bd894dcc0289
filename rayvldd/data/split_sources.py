"""Sources of a split's arrays: they give the arrays' names, and any part of them can be made on any machine.

:func:`rayvldd.data.dataset.load_dataset` makes whole arrays in its own process. Here the same arrays are split into
parts that can be pickled; names and bytes are the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from rayvldd.config.settings import DataSettings, ToyScenesData
from rayvldd.data.annotations import SPLITS, Record, read_records
from rayvldd.data.array_cache import ArrayDescription, ListFingerprint, fingerprint
from rayvldd.data.array_shards import ArrayShards
from rayvldd.data.dataset import (
    decode_into,
    decoded_pixels_array,
    drawn_pixels_array,
    file_state,
    unreadable_images,
)
from rayvldd.data.decoded_images import FileState
from rayvldd.data.kept_rows import KeptRows, find_kept_rows
from rayvldd.data.toy_scenes import CAPTIONS_PER_SCENE, Scene, draw_into, num_scenes, scene_generator, scenes_from
from rayvldd.data.unreadable import by_split, drops_unreadable, readable
from rayvldd.records.json_values import JsonValue

_STATE_INTERVAL = 256
"""Scenes between two saved states of the generator; up to this many are generated only to reach a part's start."""


@runtime_checkable
class ImagePart(Protocol):
    """Consecutive images of a split."""

    def fill(self, pixels: UInt8[np.ndarray, "image 3 height width"], shards: ArrayShards) -> None:
        """Decode or draw the images into ``pixels``.

        Args:
            pixels: Receives the images.
            shards: Storage of the arrays, which may already have some of the images.

        Raises:
            DataError: listing every image that cannot be decoded.
        """
        ...


@runtime_checkable
class CaptionPart(Protocol):
    """Consecutive captions of a split."""

    def captions(self) -> list[str]:
        """The captions as texts."""
        ...


@runtime_checkable
class SplitSource(Protocol):
    """A split of which nothing is decoded or embedded yet."""

    split: str
    """``train``, ``val`` or ``test``."""
    pixels: ArrayDescription
    captions_fingerprint: str
    """Fingerprint of the list of captions; part of the name of their embeddings."""
    num_captions: int

    def find_kept(self, shards: ArrayShards) -> None:
        """Look for images that an unfinished array already has."""
        ...

    def note_unfinished(self, shards: ArrayShards) -> None:
        """Record that the array of the images cannot be finished, for :meth:`find_kept` of another array."""
        ...

    def drop_unfinished(self, shards: ArrayShards) -> None:
        """Delete the unfinished arrays that :meth:`find_kept` no longer needs, once the array is finished."""
        ...

    def image_part(self, start: int, stop: int) -> ImagePart:
        """The images ``start`` to ``stop - 1``."""
        ...

    def caption_part(self, start: int, stop: int) -> CaptionPart:
        """The captions ``start`` to ``stop - 1``."""
        ...


def split_sources(settings: DataSettings, folder: Path) -> list[SplitSource]:
    """Read the annotations, or generate the scenes once; return train, val and test.

    Args:
        settings: Source, paths and image size of the dataset.
        folder: Folder of the workspace's cache, with the lists of images that are left out.

    Raises:
        DataError: listing every fault of the annotations.
    """
    if isinstance(settings, ToyScenesData):
        return [DrawnSource(settings, split) for split in SPLITS]
    records = by_split(read_records(settings))
    if drops_unreadable(settings):
        records = {
            split: readable(split, of_split, unreadable_images(folder, split, of_split, settings.image_size))
            for split, of_split in records.items()
        }
    return [RecordSource(split, records[split], settings.image_size) for split in SPLITS]


# --- drawn scenes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnPart:
    """Scenes that are generated on the receiving machine: only a state of the random generator is sent."""

    state: Mapping[str, JsonValue]
    """State of the generator, ``skipped`` scenes before the first scene of the part."""
    skipped: int
    """Scenes to generate and discard before the first one."""
    count: int
    """Number of scenes."""
    first_caption: int = 0
    """Captions of the first scene that do not belong to the part."""
    num_captions: int | None = None
    """Number of captions; default: all."""

    def scenes(self) -> Iterator[Scene]:
        """Generate the scenes of the part."""
        random = np.random.default_rng()
        random.bit_generator.state = dict(self.state)
        return islice(scenes_from(random, self.skipped + self.count), self.skipped, None)

    def fill(self, pixels: UInt8[np.ndarray, "image 3 height width"], shards: ArrayShards) -> None:
        """Draw the scenes."""
        for _ in draw_into(pixels, self.scenes()):
            pass

    def captions(self) -> list[str]:
        """The captions as texts."""
        texts = [caption for scene in self.scenes() for caption in scene.captions]
        return texts[self.first_caption :][: self.num_captions]


class DrawnSource:
    """A split of toy scenes. Only a fingerprint of the captions is stored, so memory does not grow with the scenes."""

    def __init__(self, settings: ToyScenesData, split: str) -> None:
        self.split = split
        random, number = scene_generator(settings, split), num_scenes(settings, split)
        self._states = []
        texts = ListFingerprint()
        for start in range(0, number, _STATE_INTERVAL):
            self._states.append(random.bit_generator.state)
            for scene in scenes_from(random, min(_STATE_INTERVAL, number - start)):
                for caption in scene.captions:
                    texts.add(caption)
        self.pixels = drawn_pixels_array(settings, split)
        self.captions_fingerprint = texts.hexdigest()
        self.num_captions = number * CAPTIONS_PER_SCENE

    def find_kept(self, shards: ArrayShards) -> None:
        """Do nothing: every scene can be drawn, so no array stays unfinished."""

    def note_unfinished(self, shards: ArrayShards) -> None:
        """Do nothing, as :meth:`find_kept`."""

    def drop_unfinished(self, shards: ArrayShards) -> None:
        """Do nothing, as :meth:`find_kept`."""

    def image_part(self, start: int, stop: int) -> DrawnPart:
        """The scenes ``start`` to ``stop - 1``."""
        state, skipped = divmod(start, _STATE_INTERVAL)
        return DrawnPart(self._states[state], skipped, stop - start)

    def caption_part(self, start: int, stop: int) -> DrawnPart:
        """The captions ``start`` to ``stop - 1``, with the scenes that they describe."""
        first, before = divmod(start, CAPTIONS_PER_SCENE)
        state, skipped = divmod(first, _STATE_INTERVAL)
        count = -(-stop // CAPTIONS_PER_SCENE) - first
        return DrawnPart(self._states[state], skipped, count, before, stop - start)


# --- image files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilePart:
    """Image files. They must have the same path on every machine that decodes some of them."""

    records: tuple[Record, ...]
    kept: KeptRows | None = None
    """Rows of an unfinished array with some of the images."""

    def fill(self, pixels: UInt8[np.ndarray, "image 3 height width"], shards: ArrayShards) -> None:
        """Decode the files in one thread, because one part per CPU is decoded at the same time."""
        decoded = self.kept.fill(shards, pixels) if self.kept else None
        for _ in decode_into(pixels, self.records, num_threads=1, decoded=decoded):
            pass


@dataclass(frozen=True)
class TextPart:
    """Captions of annotation files."""

    texts: tuple[str, ...]

    def captions(self) -> list[str]:
        """The captions as texts."""
        return list(self.texts)


class RecordSource:
    """A split of image files. Its annotations are kept in memory."""

    def __init__(self, split: str, records: list[Record], size: int) -> None:
        self.split = split
        self._records = records
        # Before any image is decoded: a file that is replaced meanwhile must not pass for the one that was decoded.
        self._files: list[FileState] = [(record.image, *file_state(record)) for record in records]
        self._kept: KeptRows | None = None
        self.pixels = decoded_pixels_array(split, records, size)
        self._texts = [caption for record in records for caption in record.captions]
        self.captions_fingerprint = fingerprint(self._texts)
        self.num_captions = len(self._texts)

    def find_kept(self, shards: ArrayShards) -> None:
        """Look for images that an unfinished array already has."""
        self._kept = find_kept_rows(shards, self.pixels, self._files)

    def note_unfinished(self, shards: ArrayShards) -> None:
        """Record the files of the array, which cannot be finished."""
        shards.note_unfinished(self.pixels, self._files)

    def drop_unfinished(self, shards: ArrayShards) -> None:
        """Delete the unfinished arrays whose images this one has."""
        shards.drop_unfinished(self.pixels, self._files)

    def image_part(self, start: int, stop: int) -> FilePart:
        """The images ``start`` to ``stop - 1``."""
        return FilePart(tuple(self._records[start:stop]), self._kept.part(start, stop) if self._kept else None)

    def caption_part(self, start: int, stop: int) -> TextPart:
        """The captions ``start`` to ``stop - 1``."""
        return TextPart(tuple(self._texts[start:stop]))
