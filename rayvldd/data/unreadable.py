"""Image files that cannot be decoded, and the list of those that ``data.unreadable: drop`` leaves out.

Which files are damaged is known only after decoding. The list of a split is therefore a file beside the cached arrays,
``unreadable-SPLIT-KEY.json``; its key contains names, sizes and modification times of all files of the split, so that
a replaced file is decoded again. A split without its damaged images has the same arrays as one that never named them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rayvldd.config.settings import DataSettings, ToyScenesData
from rayvldd.data.annotations import SPLITS, Record, SplitName
from rayvldd.data.array_cache import ArrayDescription
from rayvldd.errors import DataError, Fault, message_of
from rayvldd.storage.json_files import parsed, write_json_whole

_REPLACE = (
    "replace these files, or leave them out with --set data.unreadable=drop; the same command decodes only new ones"
)


class UnreadableImagesError(DataError):
    """Image files that cannot be decoded."""

    def __init__(self, faults: Iterable[Fault], unreadable: Mapping[str, str], *, next_command: str = _REPLACE) -> None:
        """Keep the names of the images beside the faults.

        Args:
            faults: One for each image.
            unreadable: Name of each damaged image -> why it cannot be decoded. Files that could not be read, e.g. from
                a network file system that does not answer, are only in ``faults``: they may be sound.
            next_command: The next command.
        """
        super().__init__(faults, next_command=next_command)
        self.unreadable = dict(unreadable)

    @property
    def may_be_dropped(self) -> bool:
        """Whether every fault is a damaged image."""
        return len(self.unreadable) == len(self.faults)


def is_damage(error: Exception) -> bool:
    """Whether an error of decoding is due to the content of the file, not to the system that could not deliver it."""
    return not isinstance(error, MemoryError) and getattr(error, "errno", None) is None


def fault_of_image(record: Record, error: Exception) -> Fault:
    """The fault of an image that cannot be decoded."""
    return Fault(str(record.path), f"cannot be decoded: {message_of(error)}", "an image that Pillow can open")


class UnreadableImages:
    """The list of the images of one split that are left out."""

    def __init__(self, folder: Path, split: SplitName, whole: ArrayDescription) -> None:
        """Set the name of the list without reading it.

        Args:
            folder: Folder that all machines share, of the workspace's cache.
            split: Name of the split.
            whole: The array of all images of the split.
        """
        self.file = folder / f"unreadable-{split}-{whole.name.rpartition('-')[2]}.json"
        self._split, self._num_images = split, whole.shape[0]

    def read(self) -> dict[str, str]:
        """Name of each image that is left out -> why it cannot be decoded."""
        content = parsed(self.file.read_bytes()) if self.file.is_file() else None
        images = (content or {}).get("images")
        if not isinstance(images, dict):
            return {}
        return {str(name): str(reason) for name, reason in images.items()}

    def add(self, unreadable: Mapping[str, str]) -> None:
        """Add images to the list."""
        images = self.read() | dict(unreadable)
        write_json_whole(self.file, {"split": self._split, "of": self._num_images, "images": images})


def drops_unreadable(settings: DataSettings) -> bool:
    """Whether images that cannot be decoded are left out."""
    return not isinstance(settings, ToyScenesData) and settings.unreadable == "drop"


def readable(split: SplitName, records: list[Record], listed: UnreadableImages) -> list[Record]:
    """The records of a split that are not left out.

    Raises:
        DataError: if every image of the split is left out.
    """
    left_out = listed.read()
    kept = [record for record in records if record.image not in left_out]
    if not kept:
        problem = f"no image of the split {split!r} can be decoded, of {len(records)} in all"
        raise DataError(
            [Fault(str(listed.file), problem, "at least one image per split")],
            next_command="replace the image files, for which this file gives the reasons, and repeat the command",
        )
    return kept


def by_split(records: Iterable[Record]) -> dict[SplitName, list[Record]]:
    """The records of each split, in their order."""
    found: dict[SplitName, list[Record]] = {split: [] for split in SPLITS}
    for record in records:
        found[record.split].append(record)
    return found
