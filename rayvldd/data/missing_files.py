"""Missing image files: suggestions of similar names, and one fault in place of many with the same cause."""

import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rayvldd.errors import Fault
from rayvldd.user_paths import is_file, is_folder

_FEW = 3
"""Up to this many files with the same cause are listed one by one; of more, the first and their number are given."""


class MissingFiles:
    """Collects the missing image files of one dataset."""

    def __init__(self, root: Path, images: Path) -> None:
        self._root, self._images = root, images
        self._listed: dict[Path, dict[str, str]] = {}
        self._noted: list[tuple[int, str]] = []
        """(number of the fault, cause) of each missing file."""

    def note(self, fault: int, image: str) -> None:
        """Record a missing file and the number of its fault."""
        cause = "elsewhere" if self._is_below_root(image) else "renamed" if self._other_name(image) else ""
        self._noted.append((fault, cause))

    def hint(self, image: str) -> str:
        """`` (did you mean ...?)``, if the file exists under another name or in another folder."""
        if self._is_below_root(image):
            return f" (it exists relative to {self._root}: use data.images: '.' for such names)"
        other = self._other_name(image)
        if other is None:
            return ""
        shown = repr(other)
        if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", Path(image).name):
            shown = f"{other!a}, the same letters in another Unicode form"
        return f" (did you mean {shown}?)"

    def grouped(self, faults: list[Fault]) -> list[Fault]:
        """Return the faults, with one in place of many that have the same cause."""
        if self._noted and not is_folder(self._images):
            allowed = "the folder that image names are relative to; itself relative to data.root"
            dropped = {number for number, _ in self._noted}
            absent = Fault("data.images", f"no such folder: {self._images}", allowed)
            return [absent, *(fault for number, fault in enumerate(faults) if number not in dropped)]
        counts, dropped = Counter(cause for _, cause in self._noted), set()
        for cause, count in counts.items():
            numbers = [number for number, of in self._noted if of == cause]
            if cause and count > _FEW:
                first = faults[numbers[0]]
                faults[numbers[0]] = replace(first, problem=f"{first.problem}; and {count - 1} more such names")
                dropped.update(numbers[1:])
        return [fault for number, fault in enumerate(faults) if number not in dropped]

    def _is_below_root(self, image: str) -> bool:
        return self._root != self._images and is_file(self._root / image)

    def _other_name(self, image: str) -> str | None:
        """A file in the same folder whose name differs only in case, Unicode form or extension."""
        path = self._images / image
        names = self._listed.get(path.parent)
        if names is None:
            names = self._listed[path.parent] = _names(path.parent)
        return names.get(_folded(path.name)) or names.get(_folded(path.stem if path.suffix else path.name))


def _names(folder: Path) -> dict[str, str]:
    """Files of a folder by their case-folded names, with and without extension."""
    try:
        found = sorted(file.name for file in folder.iterdir())
    except (OSError, ValueError):
        return {}
    return {_folded(Path(name).stem): name for name in found} | {_folded(name): name for name in found}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
