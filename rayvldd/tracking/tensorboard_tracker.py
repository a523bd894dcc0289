"""Tracker that also writes event files for TensorBoard, one folder for each trial; it needs no server."""

import secrets
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.tracking.protocol import Scores, State, Tracker

_STUDY = "study"
"""Folder of the study's own events."""


class TensorboardTracker(FolderTracker):
    """Writes plain files, and every new event to ``tensorboard/`` below the same folder.

    The plain files show what was written before an interruption, so that a resumed study repeats no event.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.events = self.folder / "tensorboard"
        """The folder for ``tensorboard --logdir``."""
        self.uri = self.events.as_uri()
        self._writers: dict[str, SummaryWriter] = {}
        self._points: dict[str, Mapping[str, SettingValue]] = {}

    def start_study(self, study: Study, command: str, *, was_ending: bool = False) -> None:
        """Write the study's settings and its command."""
        super().start_study(study, command, was_ending=was_ending)
        if not self.num_ends(None):
            self._writer(None).add_text("command", f"`{command}`")

    def start_trial(self, trial_id: str, point: Mapping[str, SettingValue]) -> None:
        """Write a trial's point, or continue its files."""
        super().start_trial(trial_id, point)
        self._points[trial_id] = dict(point)

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics; steps that were written before are skipped."""
        new = self.unwritten(trial_id, metrics, step)
        for name, value in new.items():
            self._writer(trial_id).add_scalar(name, value, step)
        if new:
            self._writer(trial_id).flush()
        super().log_metrics(trial_id, metrics, step)

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Write the state of an ended trial, its pictures, and its point as hyperparameters."""
        if not self.has_trial_end(trial_id, state, tags):
            writer = self._writer(trial_id)
            writer.add_text("state", " ".join([state, *tags.values()]), self.num_ends(trial_id))
            self._add_pictures(writer, artifacts)
            if state != "interrupted":
                self._add_hyperparameters(writer, trial_id)
        super().end_trial(trial_id, state, artifacts, tags)
        self._close(trial_id)

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Write the state of the study, its metrics and its pictures; open trials end as interrupted."""
        if not self.has_study_end(state, metrics):
            writer = self._writer(None)
            for name, value in metrics.items():
                writer.add_scalar(name, value, self.next_step(None, name))
            writer.add_text("state", state, self.num_ends(None))
            self._add_pictures(writer, artifacts)
        super().end_study(state, metrics, artifacts)
        for name in list(self._writers):
            self._close(name)

    def log_scores(self, scores: Scores) -> None:
        """Write the mean recall of each student of an evaluation, under the name of the set."""
        super().log_scores(scores)
        name = self._free_name("".join(sign if sign.isalnum() else "_" for sign in f"{scores.kind} {scores.name}"))
        writer = self._writer(name)
        for number, student in enumerate(scores.students):
            writer.add_scalar(f"{scores.split}_{MEAN_RECALL.name}", student[MEAN_RECALL.name], number)
        self._close(name)

    def _writer(self, name: str | None) -> SummaryWriter:
        """The open writer of a trial or of the study."""
        name = name or _STUDY
        if name not in self._writers:
            # Its own name has the second alone, so that two sessions of a second would write to one file.
            suffix = f".{secrets.token_hex(4)}"
            self._writers[name] = SummaryWriter(str(self.events / name), filename_suffix=suffix)
        return self._writers[name]

    def _free_name(self, name: str) -> str:
        """A folder for an evaluation: one that is repeated has other students, at the same steps."""
        names = (name if number == 1 else f"{name}_{number}" for number in count(1))
        return next(free for free in names if not (self.events / free).exists())

    def _close(self, name: str) -> None:
        if name in self._writers:
            self._writers.pop(name).close()

    def _add_hyperparameters(self, writer: SummaryWriter, trial_id: str) -> None:
        point, best = self._points.get(trial_id), self.last_value(trial_id, BEST_VAL_MEAN_RECALL)
        if point and best is not None:
            plain = {
                key: value if isinstance(value, bool | int | float) else str(value) for key, value in point.items()
            }
            writer.add_hparams(plain, {f"hparam/{BEST_VAL_MEAN_RECALL}": best}, name="hparams")

    def _add_pictures(self, writer: SummaryWriter, artifacts: Path | None) -> None:
        for file in sorted(artifacts.rglob("*.jpg")) if artifacts is not None else []:
            with Image.open(file) as image:
                writer.add_image(file.stem, np.asarray(image.convert("RGB")), dataformats="HWC")


if TYPE_CHECKING:
    _tracker: Tracker = TensorboardTracker("")
