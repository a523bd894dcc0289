"""Trajectories in a folder: one folder a recipe, one memory-mappable file an expert.

``<folder>/<key>/manifest.json`` says what made the set: the recipe in full, the code version, dtype and layout.
``expert_000.safetensors`` holds a trajectory; ``expert_000.json``, written last, makes it count: its metrics by
epoch, the size of the file and its checksum.
"""

import hashlib
import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open

import rayvldd
from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.trajectory import Trajectory, read_trajectory, write_trajectory
from rayvldd.stores.protocol import TrajectoryStore
from rayvldd.stores.workspace import write_json_whole

_FORMAT = 1
"""Version of the layout of a set's folder; a folder of another version is refused."""

_REMAKE = "rayvldd experts STUDY.yaml"

_LEFTOVER_AGE_S = 3600.0
"""A part file this old belongs to a process that died: no write takes that long."""

_verified: set[tuple[str, int, str]] = set()
"""Files whose checksum this process has verified: path, time of the last change, checksum."""


class FolderStore:
    """Keeps expert sets below one folder of a local or shared file system."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()

    def finished(self, recipe: ExpertRecipe) -> list[int]:
        """Return the indexes of the complete experts of a set, sorted."""
        place = self._place(recipe)
        if not place.is_dir():
            return []
        self._check_manifest(recipe)
        numbers = [file.stem.removeprefix("expert_") for file in place.glob("expert_*.json")]
        indexes = [int(number) for number in numbers if number.isdecimal()]
        return sorted(index for index in indexes if self._record(recipe, index) is not None)

    def save(self, recipe: ExpertRecipe, index: int, trajectory: Trajectory, metrics: list[dict[str, float]]) -> None:
        """Keep one expert with its metrics by epoch; one that is complete already stays as it is."""
        place, data = self._place(recipe), self._data_file(recipe, index)
        part = place / f".{data.stem}.{secrets.token_hex(4)}.part"
        try:
            place.mkdir(parents=True, exist_ok=True)
            self._check_manifest(recipe)
            _drop_leftovers(place)
            metadata = {"recipe": recipe.key, "index": str(index), "rayvldd_version": rayvldd.__version__}
            write_trajectory(part, trajectory, metadata)
            record = _record_of(recipe, index, part, metrics)
            # Two drivers may make the same expert at once. The lock keeps the pair of file and record of one of them.
            with FileLock(place / ".lock"):
                if self._record(recipe, index) is None:
                    self._write_manifest(recipe, part)
                    os.replace(part, data)
                    write_json_whole(self._record_file(recipe, index), record)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StoreError(
                f"{data}: expert {index} could not be kept: {reason}; "
                f"allowed: a folder that can be written, with room for the file",
                next_command=f"mend that; what is finished is kept: {_REMAKE}",
            ) from error
        finally:
            with suppress(OSError):  # where it could not even be made
                part.unlink()

    def load(self, recipe: ExpertRecipe, index: int) -> Trajectory:
        """Open one expert, memory-mapped; its checksum is verified once a process."""
        self._check_manifest(recipe)
        data, record = self._data_file(recipe, index), self._record(recipe, index)
        if record is None:
            raise StoreError(f"{data}: expert {index} is not there or not complete", next_command=_REMAKE)
        self._verify(recipe, index, record["sha256"])
        return read_trajectory(data)

    def metrics(self, recipe: ExpertRecipe, index: int) -> list[dict[str, float]]:
        """Return the metrics by epoch of a complete expert, or nothing where there is none."""
        record = self._record(recipe, index)
        return record["metrics"] if record else []

    def _place(self, recipe: ExpertRecipe) -> Path:
        return self.folder / recipe.key

    def _data_file(self, recipe: ExpertRecipe, index: int) -> Path:
        return self._place(recipe) / f"expert_{index:03d}.safetensors"

    def _record_file(self, recipe: ExpertRecipe, index: int) -> Path:
        return self._data_file(recipe, index).with_suffix(".json")

    def _record(self, recipe: ExpertRecipe, index: int) -> dict[str, Any] | None:
        """The record of an expert, if its file is there in the recorded size."""
        try:
            record = json.loads(self._record_file(recipe, index).read_text(encoding="utf-8"))
            size = self._data_file(recipe, index).stat().st_size
        except (OSError, ValueError):
            return None
        fits = isinstance(record, dict) and record.get("recipe") == recipe.key and record.get("bytes") == size
        return record if fits else None

    def _verify(self, recipe: ExpertRecipe, index: int, sha256: str) -> None:
        data = self._data_file(recipe, index)
        seen = (str(data), data.stat().st_mtime_ns, sha256)
        if seen in _verified:
            return
        if _sha256(data) != sha256:
            # Without its record the expert counts as missing, so that the next command makes it anew.
            self._record_file(recipe, index).unlink(missing_ok=True)
            raise StoreError(
                f"{data}: damaged: its checksum is not the recorded one; its record was dropped, it will not be used",
                next_command=f"{_REMAKE} (makes this expert again)",
            )
        _verified.add(seen)

    def _check_manifest(self, recipe: ExpertRecipe) -> None:
        """Refuse a folder that was made for anything but this recipe."""
        file = self._place(recipe) / "manifest.json"
        if not file.exists() and not list(self._place(recipe).glob("expert_*")):
            return
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            stored, version = manifest["recipe"], manifest["format"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _not_reused(file, f"not readable, so what made these experts is unknown ({error})") from None
        if version != _FORMAT:
            raise _not_reused(file, f"has format {version!r}; allowed: {_FORMAT}")
        differences = _differences(stored, json.loads(json.dumps(recipe.settings)))
        if differences:
            raise _not_reused(file, "made for other settings: " + "; ".join(differences))

    def _write_manifest(self, recipe: ExpertRecipe, data: Path) -> None:
        file = self._place(recipe) / "manifest.json"
        if file.exists():
            return
        layout = _layout(data)
        manifest = {
            "format": _FORMAT,
            "rayvldd_version": rayvldd.__version__,
            "key": recipe.key,
            "dtypes": sorted({tensor["dtype"] for tensor in layout.values()}),
            "layout": layout,
            "recipe": recipe.settings,
        }
        write_json_whole(file, manifest)


def _record_of(recipe: ExpertRecipe, index: int, data: Path, metrics: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "recipe": recipe.key,
        "index": index,
        "rayvldd_version": rayvldd.__version__,
        "bytes": data.stat().st_size,
        "sha256": _sha256(data),
        "seconds": sum(epoch.get("seconds", 0.0) for epoch in metrics),
        "metrics": metrics,
    }


def _layout(data: Path) -> dict[str, dict[str, Any]]:
    """Names, dtypes and shapes of the tensors in a file, from its header alone."""
    try:
        with safe_open(data, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            return {name: {"dtype": part.get_dtype(), "shape": part.get_shape()} for name, part in slices.items()}
    except SafetensorError as error:
        raise StoreError(f"{data}: not a safetensors file: {error}", next_command=_REMAKE) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop_leftovers(place: Path) -> None:
    for part in place.glob(".*expert_*.part*"):
        with suppress(FileNotFoundError):  # another process was quicker
            if time.time() - part.stat().st_mtime > _LEFTOVER_AGE_S:
                part.unlink()


def _not_reused(file: Path, why: str) -> StoreError:
    return StoreError(f"{file}: {why}", next_command=f"move {file.parent} away, then: {_REMAKE}")


def _differences(stored: Any, asked: Any, key: str = "") -> list[str]:
    """Name every setting in which two recipes differ, with both values."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        names = sorted({*stored, *asked})
        return [
            difference
            for name in names
            for difference in _differences(stored.get(name), asked.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if stored == asked else [f"{key or 'recipe'} is {stored!r} there, {asked!r} here"]


if TYPE_CHECKING:
    _store: TrajectoryStore = FolderStore(Path())
