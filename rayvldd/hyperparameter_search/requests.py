"""Requests of other commands to a study: points to run, trials to stop, and a pause.

A request is a file in the folder of the study, so that it reaches a study on any machine that shares the workspace, and
waits for one that is stopped. A point belongs to a trial from the proposal on, and its file is deleted when the trial
is in the ledger: a driver that is killed in between proposes the point again. The file of a stop is deleted when a
session begins after the trial has ended: a driver that is killed in between stops the trial again.
"""

import json
import secrets
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rayvldd.config.domains import SettingValue
from rayvldd.storage.atomic import write_text_whole

Point = dict[str, SettingValue]
_POINT = TypeAdapter(Point)
_WAITING, _TAKEN, _STOP, _PAUSE = "point_", "taken_", "stop_", "pause"


class PausedError(KeyboardInterrupt):
    """Another command has requested a pause: the study ends as after Ctrl-C, and the same command continues it."""


class Requests:
    """The requests to one study.

    Args:
        folder: Folder of their files; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # --- of other commands ----------------------------------------------------------------------------------------

    def add_point(self, point: Mapping[str, SettingValue]) -> None:
        """Request a trial at a point; missing settings are sampled. Points run in the order of their requests."""
        self._write(f"{_WAITING}{time.time_ns():020d}_{secrets.token_hex(4)}", json.dumps(dict(point)))

    def add_stop(self, trial_id: str) -> None:
        """Request the end of a trial at its next evaluation."""
        self._write(f"{_STOP}{trial_id}")

    def add_pause(self) -> None:
        """Request a pause of the study."""
        self._write(_PAUSE)

    def waiting_points(self) -> list[Point]:
        """The points that no trial has so far, in order."""
        points = [self._read(file) for file in self._files(_WAITING)]
        return [point for point in points if point is not None]

    # --- of the study ---------------------------------------------------------------------------------------------

    def begin(self, known: Collection[str], ended: Collection[str]) -> None:
        """Begin a session: forget a pause of before, and points and stops that are done; other points wait again.

        Args:
            known: Names of the trials in the ledger.
            ended: Names of those that have ended.
        """
        (self._folder / _PAUSE).unlink(missing_ok=True)
        for trial_id in ended:
            (self._folder / f"{_STOP}{trial_id}").unlink(missing_ok=True)
        for file in self._files(_TAKEN):
            trial_id, _, name = file.name.removeprefix(_TAKEN).partition(".")
            if trial_id in known:
                file.unlink()
            else:
                file.rename(self._folder / name)

    def take_point(self, trial_id: str) -> Point | None:
        """The next point, which now belongs to a trial; None if there is none."""
        for file in self._files(_WAITING):
            point = self._read(file)
            if point is not None:
                file.rename(self._folder / f"{_TAKEN}{trial_id}.{file.name}")
                return point
        return None

    def has_point(self, trial_id: str) -> bool:
        """Whether the point of a trial was requested; until it is forgotten."""
        return bool(self._files(f"{_TAKEN}{trial_id}."))

    def forget_point(self, trial_id: str) -> None:
        """Forget the requested point of a trial that is in the ledger."""
        for file in self._files(f"{_TAKEN}{trial_id}."):
            file.unlink(missing_ok=True)

    def stops(self, trial_id: str) -> bool:
        """Whether a trial must stop; the request stays until the trial has ended."""
        return (self._folder / f"{_STOP}{trial_id}").is_file()

    def raise_pause(self) -> None:
        """Interrupt the study if a pause is requested.

        Raises:
            PausedError: in that case.
        """
        file = self._folder / _PAUSE
        if file.is_file():
            file.unlink()
            raise PausedError

    # --- files ----------------------------------------------------------------------------------------------------

    def _files(self, prefix: str) -> list[Path]:
        return sorted(self._folder.glob(f"{prefix}*"))

    def _write(self, name: str, text: str = "") -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text_whole(self._folder / name, text)

    def _read(self, file: Path) -> Point | None:
        """The point of a file; None if it cannot be read."""
        try:
            return _POINT.validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None
