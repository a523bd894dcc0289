"""Versions of Ray, Python and rayvldd, which must be the same on driver and nodes."""

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import rayvldd

PINS = "constraints.txt"
"""Name of the file with the tested package versions."""

_MARK = "rayvldd runs on "
"""Prefix of the log line with the versions."""


@dataclass(frozen=True)
class Versions:
    """Versions that must be equal on all machines, because they exchange pickled objects."""

    ray: str
    python: str
    rayvldd: str
    """Version with a fingerprint of the code, because two checkouts may have the same version."""

    @classmethod
    def here(cls) -> "Versions":
        """Return the versions of this process, without importing Ray."""
        return cls(version("ray"), platform.python_version(), f"{rayvldd.__version__} (code {_code()})")

    @classmethod
    def in_log(cls, log: str) -> "Versions | None":
        """Parse the versions from the log of a job; None if it has not printed them."""
        for line in log.splitlines():
            if line.startswith(_MARK):
                try:
                    return TypeAdapter(cls).validate_json(line.removeprefix(_MARK), strict=True)
                except ValidationError:
                    return None
        return None

    @property
    def python_minor(self) -> str:
        """Minor Python version that Ray compares: ``3.11`` for ``3.11.7``."""
        return ".".join(self.python.split(".")[:2])

    @property
    def as_line(self) -> str:
        """First line of the log of a job."""
        return _MARK + self.as_argument()

    def as_argument(self) -> str:
        """Encode the versions as a command-line argument."""
        return json.dumps(asdict(self))

    def faults_against(self, there: "Versions") -> list[str]:
        """Describe every version that differs, with both values."""
        names = {"ray": "Ray", "python": "Python", "rayvldd": "rayvldd"}
        mine, theirs = asdict(self), asdict(there)
        return [f"{names[key]} is {mine[key]} here, {theirs[key]} there" for key in mine if mine[key] != theirs[key]]


def _code() -> str:
    """Return eight hex digits that identify the source text of all modules of the package."""
    root, digest = Path(rayvldd.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def pin_of(file: Path, package: str) -> str | None:
    """Return the pinned version of a package; None if it is not pinned."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else None
