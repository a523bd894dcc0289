"""Which images of a study's data are left out because they cannot be decoded."""

from collections.abc import Mapping
from pathlib import Path

from rayvldd.config.settings import DataSettings, ToyScenesData
from rayvldd.data.annotations import read_records
from rayvldd.data.dataset import unreadable_images
from rayvldd.data.unreadable import UnreadableImages, by_split, drops_unreadable
from rayvldd.printable import counted


def left_out_so_far(settings: DataSettings, folder: Path) -> dict[str, int]:
    """File of each list of images that are left out -> their number.

    Args:
        settings: The data.
        folder: Folder of the workspace's cache.
    """
    if not drops_unreadable(settings):
        return {}
    counts = {str(listed.file): len(listed.read()) for listed, _ in _lists(settings, folder)}
    return {file: count for file, count in counts.items() if count}


def lines_of_left_out(counts: Mapping[str, int]) -> list[str]:
    """One line for each list of images that are left out; the argument is a result of :func:`left_out_so_far`."""
    return [
        f"{counted(count, 'image')} cannot be decoded and {'is' if count == 1 else 'are'} left out "
        f"(data.unreadable: drop): {file}"
        for file, count in counts.items()
    ]


def leave_out(settings: DataSettings, folder: Path, unreadable: Mapping[str, str]) -> None:
    """Add images to the lists of their splits.

    Args:
        settings: The data.
        folder: Folder of the workspace's cache.
        unreadable: Name of each image -> why it cannot be decoded.
    """
    for listed, names in _lists(settings, folder):
        of_split = {name: why for name, why in unreadable.items() if name in names}
        if of_split:
            listed.add(of_split)


def _lists(settings: DataSettings, folder: Path) -> list[tuple[UnreadableImages, set[str]]]:
    """The list of each split, and the names of all its images."""
    assert not isinstance(settings, ToyScenesData)
    return [
        (unreadable_images(folder, split, records, settings.image_size), {record.image for record in records})
        for split, records in by_split(read_records(settings)).items()
    ]
