"""The versions that driver and nodes must share: of Ray, Python and rayvldd."""

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import rayvldd

PINS = "constraints.txt"
"""Name of the file with the versions that were tested together."""

_MARK = "rayvldd runs on "
"""Begins the line that says which versions run somewhere."""


@dataclass(frozen=True)
class Versions:
    """The releases that must be the same everywhere: pickled objects travel between them."""

    ray: str
    python: str
    rayvldd: str
    """With a fingerprint of its code: two checkouts may call themselves by the same version."""

    @classmethod
    def here(cls) -> "Versions":
        """Those of this process; Ray is not imported for it."""
        return cls(version("ray"), platform.python_version(), f"{rayvldd.__version__} (code {_code()})")

    @classmethod
    def in_log(cls, log: str) -> "Versions | None":
        """Those of the line that a job has printed; None where it did not come to that."""
        for line in log.splitlines():
            if line.startswith(_MARK):
                try:
                    return cls(**json.loads(line.removeprefix(_MARK)))
                except (ValueError, TypeError):
                    return None
        return None

    @property
    def python_minor(self) -> str:
        """``3.11`` of ``3.11.7``: what Ray compares."""
        return ".".join(self.python.split(".")[:2])

    @property
    def as_line(self) -> str:
        """What a job prints first."""
        return _MARK + self.as_argument()

    def as_argument(self) -> str:
        """As a word on a command line."""
        return json.dumps(asdict(self))

    def faults_against(self, there: "Versions") -> list[str]:
        """Each release that differs, with both versions."""
        names = {"ray": "Ray", "python": "Python", "rayvldd": "rayvldd"}
        mine, theirs = asdict(self), asdict(there)
        return [f"{names[key]} is {mine[key]} here, {theirs[key]} there" for key in mine if mine[key] != theirs[key]]


def _code() -> str:
    """Eight hex digits that name the text of all modules of the package."""
    root, digest = Path(rayvldd.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def pin_of(file: Path, package: str) -> str | None:
    """The version of a package in a file of pins; None where it is not pinned."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else None
