"""A study in a persistent storage, a shared folder or S3, from which any machine can resume it.

The storage contains a snapshot of the study's folder, including checkpoints of running trials. Files are named by
their checksums, and a small file lists those of the current snapshot; it is swapped last, so the snapshot is always
consistent, even if a process dies. A lease with heartbeats ensures that one machine at a time runs the study. A driver
that was wrongly considered dead notices that the snapshot was swapped, and stops writing.

Below ``NAME/`` of the storage: ``snapshot.json``, ``holder.json`` and ``files/SHA256``.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict, cast

from rayvldd.background import RepeatedCall
from rayvldd.console import ProgressDisplay
from rayvldd.errors import RayvlddError, StoreError
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.storage.atomic import write_bytes_whole
from rayvldd.storage.json_files import parsed
from rayvldd.storage.lease import BEAT_S, STALE_S, Lease, LeaseHolder
from rayvldd.storage.names import stays_inside
from rayvldd.storage.storage import Storage

EVERY_S = 10.0
"""Seconds between two checks for changes; with the upload, the most work that is lost if the machine ends."""

_POLL_S = 1.0
_TRIES = 5
"""Attempts to read a trial's files while they change, before its earlier state is kept for now."""


class Entry(TypedDict):
    """A file of a snapshot."""

    sha256: str
    bytes: int


Stamp = tuple[int, int, int, int]
"""Identity of a file's state: inode, times and size."""


class StudyStore:
    """Keeps the folder of one study in a storage.

    Args:
        storage: Storage of studies, each below its name.
        folder: The study's folder on this machine.
        every_s: Seconds between two checks for changes.
    """

    def __init__(self, storage: Storage, folder: StudyFolder, every_s: float = EVERY_S) -> None:
        self._storage, self._folder, self._every_s = storage, folder, every_s
        self._name = folder.root.name
        self._sums: dict[str, tuple[Stamp, Entry]] = {}
        """File name -> its stamp, and its content at that time."""
        self._snapshot: bytes | None = None
        """The snapshot as this machine last read or wrote it."""
        self._taken_over = False

    @property
    def uri(self) -> str:
        """Address of the study."""
        return f"{self._storage.uri.rstrip('/')}/{self._name}"

    @contextmanager
    def held(self, display: ProgressDisplay) -> Iterator[None]:
        """Fetch the study, and keep the storage up to date while the block runs and at its end.

        Raises:
            RayvlddError: if another machine runs the study, or has taken it over.
            StoreError: if the storage cannot be read or written, or contains another study than the folder.
        """
        with self._acquire_lease(display):
            self.fetch(display)
            self._drop_unnamed()
            # A temporarily unavailable storage has no effect, unless this machine ends in the meantime.
            pushes = RepeatedCall(f"study store {self.uri}", self._every_s, self.push, "not kept there at the moment")
            try:
                with pushes:
                    yield
            except BaseException:  # also Ctrl-C; the first error matters more than an unavailable storage
                with suppress(Exception):
                    self.push()
                raise
            self.push()

    def fetch(self, display: ProgressDisplay) -> None:
        """Make the folder equal to the last snapshot, unless it already is, or was resumed from it.

        Raises:
            StoreError: if the folder contains another study than the storage, or a file of the snapshot is damaged or
                does not belong to a study's folder.
        """
        with self._own_folder():
            self._fetch(display)

    def _fetch(self, display: ProgressDisplay) -> None:
        self._snapshot = self._storage.read(self._file("snapshot.json"))
        files = self._known()
        if self._snapshot is None:
            return
        mark, pushed = self._folder.store_mark, self._folder.pushed_mark
        if pushed.is_file() and pushed.read_text(encoding="utf-8") == _sum(self._snapshot):
            self._mark()  # it is what this machine wrote, which ended before it could note that
            return
        if self._folder.settings.is_file():
            if not mark.is_file():
                raise StoreError(
                    f"{self.uri} and {self._folder.root} both hold a study {self._name}, and neither comes from the "
                    f"other; allowed: a new name, or one of the two",
                    next_command="the same command with --set name=ANOTHER, or without --study-store",
                )
            if mark.read_text(encoding="utf-8") == _sum(self._snapshot):
                return
        pushed.unlink(missing_ok=True)
        write_bytes_whole(mark, b"coming")  # marks an interrupted copy as incomplete
        for done, (name, entry) in enumerate(sorted(files.items())):
            display.progress(f"study from {self.uri}", done, len(files))
            self._bring(name, entry)
        for name in self._local_files():
            if name not in files:
                (self._folder.root / name).unlink()
        self._mark()
        display.done()
        display.line(f"study {self._name} goes on from {self.uri}")

    def push(self) -> None:
        """Upload the current state of the folder.

        Raises:
            RayvlddError: if another machine has taken over the study.
            StoreError: if the storage cannot be written, or the folder cannot be read.
        """
        with self._own_folder():
            self._push()

    @contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Translate errors of the folder on this machine."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self._folder.root}: cannot be kept in step with {self.uri}: {error.strerror or error} "
                f"({error.filename}); allowed: a folder that can be read and written, with room for its files",
                next_command="correct that, then the same command: finished work is kept",
            ) from error

    def _push(self) -> None:
        files = self._capture()
        before = self._known()
        if files == before:
            return
        content = json.dumps({"files": files}, indent=1, sort_keys=True).encode()
        write_bytes_whole(self._folder.pushed_mark, _sum(content).encode())
        if self._taken_over or not self._storage.swap(self._file("snapshot.json"), self._snapshot, content):
            self._taken_over = True
            raise RayvlddError(
                f"{self.uri}: another machine has gone on with the study since; what this one did is in "
                f"{self._folder.root} and no longer kept there",
                next_command="the same command on the machine that has the study, or with --set name=ANOTHER",
            )
        self._snapshot = content
        self._mark()
        for sha in {entry["sha256"] for entry in before.values()} - {entry["sha256"] for entry in files.values()}:
            self._storage.delete(self._file(f"files/{sha}"))

    # --- lease --------------------------------------------------------------------------------------------------------

    def _acquire_lease(self, display: ProgressDisplay) -> Lease:
        """Acquire the lease; it takes half a minute to detect that a holder on another machine is dead."""
        name, lease_holder = self._file("holder.json"), LeaseHolder()
        first, started = self._storage.read(name), time.monotonic()
        while (lease := lease_holder.acquire(self._storage, name)) is None:
            display.progress(f"watching who holds {self.uri}", round(time.monotonic() - started), round(STALE_S))
            if self._storage.read(name) != first or time.monotonic() - started > STALE_S + 2 * BEAT_S:
                raise RayvlddError(
                    f"study {self._name}: another machine is running it (it holds {self.uri})",
                    next_command="wait for it, or give this study another name: --set name=ANOTHER",
                )
            time.sleep(_POLL_S)
        display.done()
        return lease

    # --- files --------------------------------------------------------------------------------------------------------

    def _file(self, name: str) -> str:
        return f"{self._name}/{name}"

    def _known(self) -> dict[str, Entry]:
        """The files of the snapshot."""
        if self._snapshot is None:
            return {}
        files = (parsed(self._snapshot) or {}).get("files")
        if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
            raise self._not_ours("snapshot.json cannot be understood")
        tune = self._folder.tune.name
        for name in files:
            parts = name.split("/")
            if not stays_inside(name) or parts[0] == tune or any(part.startswith(".") for part in parts):
                raise self._not_ours(f"snapshot.json names {name!r}, which is no file of a study's folder")
        return {name: cast(Entry, entry) for name, entry in files.items()}

    def _not_ours(self, why: str) -> StoreError:
        return StoreError(
            f"{self.uri}: {why}; nothing was changed here or there",
            next_command="find out who wrote that; the same command with --set name=ANOTHER begins a new study",
        )

    def _drop_unnamed(self) -> None:
        """Delete files that a killed driver uploaded without naming them in a snapshot; requires the lease."""
        named = {entry["sha256"] for entry in self._known().values()}
        for name in self._storage.names(self._file("files")):
            if name.rpartition("/")[2] not in named:
                self._storage.delete(name)

    def _local_files(self, unit: str = "") -> list[str]:
        """Files of the folder or of a unit that are stored: all except Ray Tune's files, locks and partial files."""
        root = self._folder.root
        found = [Path(folder) / name for folder, _, names in _walk(root / unit) for name in names]
        paths = (path.relative_to(root) for path in found if path.is_file())
        tune = self._folder.tune.name
        return sorted(
            path.as_posix()
            for path in paths
            if path.parts[0] != tune and not any(part.startswith(".") for part in path.parts)
        )

    def _capture(self) -> dict[str, Entry]:
        """Upload a consistent state of the files and return its entries.

        The files at the top of the folder are read first: they refer to trials and sets that were complete by then.
        """
        before = self._known()
        names = self._local_files()
        found = self._entries([name for name in names if "/" not in name]) or {}
        for unit in sorted({_unit_of(name) for name in names if "/" in name}):
            entries = self._whole(unit)
            if entries is None:  # it was written to during every attempt
                entries = {name: entry for name, entry in before.items() if _unit_of(name) == unit}
            found |= entries
        return found

    def _whole(self, unit: str) -> dict[str, Entry] | None:
        """The files of a unit in a consistent state, e.g. a trial and its checkpoint; None if they keep changing."""
        for _ in range(_TRIES):
            before = self._stamps(unit)
            entries = self._entries(sorted(before))
            if entries is not None and self._stamps(unit) == before:
                return entries
        return None

    def _stamps(self, unit: str) -> dict[str, Stamp]:
        names = [name for name in self._local_files(unit) if _unit_of(name) == unit]
        stamps = {name: _stamp_of(self._folder.root / name) for name in names}
        return {name: stamp for name, stamp in stamps.items() if stamp is not None}

    def _entries(self, names: list[str]) -> dict[str, Entry] | None:
        """Upload files and return their entries; None if a file disappeared in the meantime."""
        found = {}
        for name in names:
            path = self._folder.root / name
            stamp = _stamp_of(path)
            known = self._sums.get(name)
            if stamp is None:
                return None
            if known is None or known[0] != stamp:
                try:
                    content = path.read_bytes()
                except FileNotFoundError:
                    return None
                known = stamp, {"sha256": _sum(content), "bytes": len(content)}
                self._keep(known[1]["sha256"], content)
                self._sums[name] = known
            found[name] = known[1]
        return found

    def _keep(self, sha: str, content: bytes) -> None:
        name = self._file(f"files/{sha}")
        if self._storage.size(name) != len(content):
            self._storage.write(name, content)

    def _bring(self, name: str, entry: Entry) -> None:
        path = self._folder.root / name
        root = self._folder.root.resolve()
        if not path.parent.resolve().is_relative_to(root):
            raise StoreError(
                f"{path}: leads out of {root} by a symbolic link; allowed: folders of its own",
                next_command="replace the link by a folder, then the same command",
            )
        if path.is_file() and _sum(path.read_bytes()) == entry["sha256"]:
            return
        content = self._storage.read(self._file(f"files/{entry['sha256']}"))
        if content is None or _sum(content) != entry["sha256"]:
            raise StoreError(
                f"{self.uri}: {name} is {'missing' if content is None else 'not what was written'} there; "
                f"nothing was changed there",
                next_command="the same command with --set name=ANOTHER, which begins a new study",
            )
        if path.is_dir():
            shutil.rmtree(path)
        write_bytes_whole(path, content)

    def _mark(self) -> None:
        assert self._snapshot is not None
        write_bytes_whole(self._folder.store_mark, _sum(self._snapshot).encode())
        self._folder.pushed_mark.unlink(missing_ok=True)


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder; parts that disappear in the meantime are ignored, unreadable ones raise an error."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    return os.walk(folder, onerror=refuse)


def _is_entry(value: object) -> bool:
    """Whether a value is a valid entry of a snapshot."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("bytes"), int)
        and isinstance(value.get("sha256"), str)
        and re.fullmatch("[0-9a-f]{64}", value["sha256"]) is not None
    )


def _unit_of(name: str) -> str:
    """The unit of a file, whose files are stored together: a trial, a set of a finalist, or the best set."""
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0] if len(parts) > 1 else ""


def _stamp_of(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    # The clock of a file system may have a resolution of 4 ms; a file that replaces another has another inode.
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
