"""What both ends of a cluster must run: the same Ray, the same Python, the same rayvldd.

Run as a module on the cluster, it prints what is there, and its exit code says whether that is what was asked for.
"""

import hashlib
import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import rayvldd
from rayvldd.errors import RayvlddError

EXIT_MISMATCH = 3
"""Exit code of this module where the versions are not those asked for."""

_MARK = "rayvldd runs on "
"""Begins the line that it prints."""


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
        """Those that this module has printed into a log; None where it did not come to that."""
        for line in log.splitlines():
            if line.startswith(_MARK):
                try:
                    return cls(**json.loads(line.removeprefix(_MARK)))
                except (ValueError, TypeError):
                    return None
        return None

    def as_argument(self) -> str:
        """What this module takes on its command line."""
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


def mismatch(where: str, faults: list[str]) -> RayvlddError:
    """The refusal of a cluster that runs other releases.

    Args:
        where: The cluster or node, at the beginning of the sentence.
        faults: From :meth:`Versions.faults_against`.
    """
    return RayvlddError(
        f"{where} cannot be used: {'; '.join(faults)}; allowed: the same releases on both sides",
        next_command="ray up -y clusters/on_prem.yaml, or your cluster's file: it installs this checkout on every node",
    )


def main(arguments: list[str]) -> int:
    """Print what runs here, and compare it with what the one argument asks for."""
    here = Versions.here()
    print(_MARK + here.as_argument(), flush=True)
    return 0 if here.as_argument() == arguments[0] else EXIT_MISMATCH


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
