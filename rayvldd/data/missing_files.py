"""Image files that annotations name and nobody finds: what they may be called instead, and one fault for one cause."""

import os
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rayvldd.errors import Fault

_FEW = 3
"""Files of one cause that are listed each; of more the first is, with their number."""


class MissingFiles:
    """Gathers the missing image files of one dataset."""

    def __init__(self, root: Path, images: Path) -> None:
        self._root, self._images = root, images
        self._listed: dict[Path, dict[str, str]] = {}
        self._noted: list[tuple[int, str]] = []
        """The number of each fault, and its cause."""

    def note(self, fault: int, image: str) -> None:
        """Remember a missing file and the number of the fault that tells of it."""
        cause = "elsewhere" if self._is_below_root(image) else "renamed" if self._other_name(image) else ""
        self._noted.append((fault, cause))

    def hint(self, image: str) -> str:
        """`` (did you mean ...?)``, where the file is there by another name or in another folder."""
        if self._is_below_root(image):
            return f" (it is there from {self._root} on: data.images is '.' for such names)"
        other = self._other_name(image)
        if other is None:
            return ""
        shown = repr(other)
        if unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", Path(image).name):
            shown = f"{ascii(other)}, the same letters in another Unicode form"
        return f" (did you mean {shown}?)"

    def gathered(self, faults: list[Fault]) -> list[Fault]:
        """The faults, with one in place of many that have one cause."""
        if self._noted and not self._images.is_dir():
            allowed = "the folder that the names of images start from, relative to data.root"
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
        return self._root != self._images and os.path.isfile(self._root / image)

    def _other_name(self, image: str) -> str | None:
        """A file beside the missing one whose name differs in case, Unicode form or ending alone."""
        path = self._images / image
        names = self._listed.get(path.parent)
        if names is None:
            names = self._listed[path.parent] = _names(path.parent)
        return names.get(_folded(path.name)) or names.get(_folded(path.stem if path.suffix else path.name))


def _names(folder: Path) -> dict[str, str]:
    """The files of a folder by their folded names, and by these without their endings."""
    try:
        found = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return {}
    return {_folded(Path(name).stem): name for name in found} | {_folded(name): name for name in found}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
