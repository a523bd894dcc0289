"""The versions that driver and nodes must share: of Ray, Python and rayvldd."""

import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import rayvldd

PINS = "constraints.txt"
"""Name of the file with the versions that were tested together."""


@dataclass(frozen=True)
class Versions:
    """What has to be the same on both sides."""

    ray: str
    python: str
    rayvldd: str

    @classmethod
    def of_driver(cls) -> "Versions":
        """Those of this process."""
        return cls(version("ray"), platform.python_version(), rayvldd.__version__)

    @property
    def python_minor(self) -> str:
        """``3.11`` of ``3.11.7``: what Ray compares."""
        return ".".join(self.python.split(".")[:2])

    @staticmethod
    def pin_of(file: Path, package: str) -> str | None:
        """The version of a package in a file of pins; None where it is not pinned."""
        found = re.search(rf"^{re.escape(package)}==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        return found.group(1) if found else None
