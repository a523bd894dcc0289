"""The folder everything is written to, and how files are written into it."""

import json
import math
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayvldd.errors import StoreError


class Workspace:
    """The one owner of every path below one folder.

    Nothing is made by asking for a path; :meth:`check_writable` makes the folder itself, and whoever writes a file
    makes the folders above it.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()

    @property
    def cache(self) -> Path:
        """Decoded images and caption embeddings, shared by all processes of the machine."""
        return self.root / "cache"

    @property
    def experts(self) -> Path:
        """Expert trajectories, one folder a recipe, shared by all studies."""
        return self.root / "experts"

    @property
    def studies(self) -> Path:
        """One folder a study."""
        return self.root / "studies"

    def study(self, name: str) -> Path:
        """The folder of one study: its settings, trials and result."""
        return self.studies / name

    @property
    def tracking_uri(self) -> str:
        """The embedded MLflow database: one SQLite file, no server to start."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow keeps its artifacts."""
        return self.root / "mlartifacts"

    def check_writable(self) -> None:
        """Make the folder, and try that a file can be written into it.

        Raises:
            StoreError: naming the folder, the reason and the way out.
        """
        reason = "SQLite addresses cannot hold a '?'" if "?" in str(self.root) else None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            raise StoreError(
                f"workspace {self.root}: cannot be used: {reason}; allowed: a folder that you may write to",
                next_command="repeat the command with --workspace FOLDER",
            )


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file that readers see whole or not at all, whatever dies in between."""
    write_bytes_whole(path, text.encode())


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a file that readers see whole or not at all, whatever dies in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json_whole(path: Path, value: Any) -> None:
    """Write strict JSON as :func:`write_text_whole` does; a number that is not finite becomes null."""
    write_bytes_whole(path, json_text(value))


def json_text(value: Any) -> bytes:
    """Strict JSON for a file; a number that is not finite becomes null."""
    return (json.dumps(_strict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
