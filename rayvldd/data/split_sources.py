"""What the arrays of a split are made from: enough to name them, and to make any part of them on any machine.

:func:`rayvldd.data.dataset.load_dataset` makes an array whole where it stands. Here the same arrays are cut into parts
that travel by pickle; names and bytes are the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from rayvldd.config.settings import DataSettings, ToyScenesData
from rayvldd.data.annotations import SPLITS, Record, read_records
from rayvldd.data.array_cache import ArrayDescription, ListFingerprint, fingerprint
from rayvldd.data.dataset import decode_into, decoded_pixels_array, drawn_pixels_array
from rayvldd.data.toy_scenes import CAPTIONS_PER_SCENE, Scene, draw_into, num_scenes, scene_generator, scenes_from

_NOTED_EVERY = 256
"""Scenes between two noted states of the generator: a part that begins elsewhere makes up to so many in vain."""


@runtime_checkable
class ImagePart(Protocol):
    """Some images of a split, one after the other."""

    def fill(self, pixels: UInt8[np.ndarray, "image 3 height width"]) -> None:
        """Decode or draw them.

        Raises:
            DataError: listing every image that cannot be decoded.
        """
        ...


@runtime_checkable
class CaptionPart(Protocol):
    """Some captions of a split, one after the other."""

    def captions(self) -> list[str]:
        """The captions themselves."""
        ...


@runtime_checkable
class SplitSource(Protocol):
    """A split before anything of it is decoded or embedded."""

    split: str
    """``train``, ``val`` or ``test``."""
    pixels: ArrayDescription
    captions: str
    """Fingerprint of the list of captions, which names their embeddings."""
    num_captions: int

    def image_part(self, start: int, stop: int) -> ImagePart:
        """The images from one index to before another."""
        ...

    def caption_part(self, start: int, stop: int) -> CaptionPart:
        """The captions from one index to before another."""
        ...


def split_sources(settings: DataSettings) -> list[SplitSource]:
    """Read the annotations, or make up the scenes once; return train, val and test.

    Raises:
        DataError: listing every fault of the annotations.
    """
    if isinstance(settings, ToyScenesData):
        return [DrawnSource(settings, split) for split in SPLITS]
    records = read_records(settings)
    return [RecordSource(split, [r for r in records if r.split == split], settings.image_size) for split in SPLITS]


# --- drawn scenes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnPart:
    """Scenes that are made up again where they are needed: a few random states travel instead of them."""

    state: Mapping[str, Any]
    """Of the generator, some scenes before the first."""
    skipped: int
    """How many scenes lie between."""
    count: int
    first_caption: int = 0
    """Captions of the first scene that do not belong to the part."""
    num_captions: int | None = None
    """Default: all of them."""

    def scenes(self) -> Iterator[Scene]:
        """The part's scenes, one after the other."""
        random = np.random.default_rng()
        random.bit_generator.state = dict(self.state)
        return islice(scenes_from(random, self.skipped + self.count), self.skipped, None)

    def fill(self, pixels: UInt8[np.ndarray, "image 3 height width"]) -> None:
        """Draw the scenes."""
        for _ in draw_into(pixels, self.scenes()):
            pass

    def captions(self) -> list[str]:
        """The captions themselves."""
        found = [caption for scene in self.scenes() for caption in scene.captions]
        return found[self.first_caption :][: self.num_captions]


class DrawnSource:
    """A split of drawn scenes. Its memory does not grow with the scenes: of what they say a name is kept."""

    def __init__(self, settings: ToyScenesData, split: str) -> None:
        self.split = split
        random, number = scene_generator(settings, split), num_scenes(settings, split)
        self._states = []
        said = ListFingerprint()
        for start in range(0, number, _NOTED_EVERY):
            self._states.append(random.bit_generator.state)
            for scene in scenes_from(random, min(_NOTED_EVERY, number - start)):
                for caption in scene.captions:
                    said.add(caption)
        self.pixels = drawn_pixels_array(settings, split)
        self.captions = said.name()
        self.num_captions = number * CAPTIONS_PER_SCENE

    def image_part(self, start: int, stop: int) -> DrawnPart:
        """The scenes from one index to before another."""
        noted, skipped = divmod(start, _NOTED_EVERY)
        return DrawnPart(self._states[noted], skipped, stop - start)

    def caption_part(self, start: int, stop: int) -> DrawnPart:
        """The captions from one index to before another, with the scenes that they tell of."""
        first, before = divmod(start, CAPTIONS_PER_SCENE)
        noted, skipped = divmod(first, _NOTED_EVERY)
        count = -(-stop // CAPTIONS_PER_SCENE) - first
        return DrawnPart(self._states[noted], skipped, count, before, stop - start)


# --- image files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilePart:
    """Image files; every machine that decodes some must see them under the same path."""

    records: tuple[Record, ...]

    def fill(self, pixels: UInt8[np.ndarray, "image 3 height width"]) -> None:
        """Decode the files, in one thread: as many parts are decoded side by side as there are CPUs."""
        for _ in decode_into(pixels, self.records, num_threads=1):
            pass


@dataclass(frozen=True)
class TextPart:
    """Captions of annotation files."""

    texts: tuple[str, ...]

    def captions(self) -> list[str]:
        """The captions themselves."""
        return list(self.texts)


class RecordSource:
    """A split of image files. Its annotations are in memory, as they were read."""

    def __init__(self, split: str, records: list[Record], size: int) -> None:
        self.split = split
        self._records = records
        self.pixels = decoded_pixels_array(split, records, size)
        self._texts = [caption for record in records for caption in record.captions]
        self.captions = fingerprint(self._texts)
        self.num_captions = len(self._texts)

    def image_part(self, start: int, stop: int) -> FilePart:
        """The images from one index to before another."""
        return FilePart(tuple(self._records[start:stop]))

    def caption_part(self, start: int, stop: int) -> TextPart:
        """The captions from one index to before another."""
        return TextPart(tuple(self._texts[start:stop]))
