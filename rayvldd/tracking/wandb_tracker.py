"""Tracker that also writes to Weights & Biases: a run for the study, one for each trial, in one group.

``WANDB_MODE=offline`` keeps the runs on this machine, for ``wandb sync tracking/sessions/*/wandb/offline-run-*`` in the
study's folder; without it, the client's own login decides.
"""

import hashlib
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError, message_of
from rayvldd.records.json_values import JsonValue
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.tracking.protocol import Scores, State, Tracker

logger = logging.getLogger(__name__)

PROJECT = "rayvldd"
_EXIT_CODES: dict[State, int] = {"finished": 0, "stopped": 0, "failed": 1, "interrupted": 130}


class WandbTracker(FolderTracker):
    """Writes plain files, and every new event to a run of Weights & Biases.

    The plain files show what was written before an interruption, so that a resumed study repeats no event. A run has an
    id that follows from folder and trial, so that it is continued.

    Only :meth:`start_study` raises errors of Weights & Biases, before any work. Later ones are listed in
    :attr:`missing`: they must not end a search or lose an evaluation, and the plain files have everything.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.uri = self.folder.as_uri()
        self._session = self.folder / "sessions" / secrets.token_hex(4)
        """Folder of wandb's files: two sessions of a second would share names in one folder."""
        self._runs: dict[str | None, Any] = {}
        self._group = ""
        self._missing: dict[str, str] = {}
        """Name of a run -> the first reason why it is incomplete."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Runs that Weights & Biases does not have, or not completely, each with the reason."""
        return tuple(f"{name}: {reason}" for name, reason in self._missing.items())

    def start_study(self, study: Study, command: str, *, was_ending: bool = False) -> None:
        """Write the study's settings, and open its run or continue it.

        Raises:
            RayvlddError: if there is no login, or the files cannot be written.
        """
        super().start_study(study, command, was_ending=was_ending)
        self._group = study.name
        try:
            self._open_run(None, study.name, "study", {**study.model_dump(mode="json"), "command": command})
        except Exception as error:  # wandb's, for a missing login or network
            raise RayvlddError(
                f"Weights & Biases cannot be used: {message_of(error)}; allowed: a login, or WANDB_MODE=offline",
                next_command="wandb login; or the same command with WANDB_MODE=offline",
            ) from error
        self.uri = self._runs[None].url or self.uri

    def start_trial(self, trial_id: str, point: Mapping[str, SettingValue]) -> None:
        """Write a trial's point, and open its run or continue it."""
        super().start_trial(trial_id, point)
        with self._noting_failure(trial_id):
            self._open_run(trial_id, f"{self._group}/{trial_id.removeprefix('trial_')}", "trial", dict(point))

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics; steps that were written before are skipped."""
        new = self.unwritten(trial_id, metrics, step)
        if new and trial_id in self._runs:
            with self._noting_failure(trial_id):
                self._runs[trial_id].log(new, step=step, commit=True)
        super().log_metrics(trial_id, metrics, step)

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Write the state of an ended trial, its tags and pictures, and close its run."""
        super().end_trial(trial_id, state, artifacts, tags)
        self._close(trial_id, state, dict(tags), artifacts)

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Write the state of the study and its metrics, and close its run; open trials end as interrupted."""
        super().end_study(state, metrics, artifacts)
        self._close(None, state, dict(metrics), artifacts)

    def log_scores(self, scores: Scores) -> None:
        """Write an evaluation as a run of its own; each student is a step."""
        super().log_scores(scores)
        self._group = scores.study.name
        record = f"{scores.kind} {scores.name} {scores.command}"
        with self._noting_failure(record):
            self._open_run(record, scores.name, scores.kind, dict(scores.settings))
            for number, student in enumerate(scores.students):
                self._runs[record].log({f"{scores.split}_{key}": value for key, value in student.items()}, step=number)
        mean = sum(student[MEAN_RECALL.name] for student in scores.students) / len(scores.students)
        self._close(record, "finished", {f"mean_{scores.split}_{MEAN_RECALL.name}": mean, **scores.figures}, None)

    def _open_run(
        self, name: str | None, title: str, kind: str, config: Mapping[str, JsonValue | SettingValue]
    ) -> None:
        if name in self._runs:
            return
        identity = hashlib.sha256(f"{self.folder} {name or ''}".encode()).hexdigest()[:16]
        self._session.mkdir(parents=True, exist_ok=True)
        self._runs[name] = wandb.init(
            project=PROJECT,
            group=self._group,
            job_type=kind,
            name=title,
            id=identity,
            resume="allow",
            reinit="create_new",  # several trials are open at the same time
            dir=str(self._session),
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def _close(
        self, name: str | None, state: State, summary: Mapping[str, str | float], artifacts: Path | None
    ) -> None:
        run = self._runs.pop(name, None)
        if run is None:  # it could not be opened
            return
        with self._noting_failure(name):
            for file in sorted(artifacts.rglob("*.jpg")) if artifacts is not None else []:
                run.summary[file.stem] = wandb.Image(str(file))
            run.summary.update({**summary, "state": state})
            run.finish(exit_code=_EXIT_CODES[state])

    @contextmanager
    def _noting_failure(self, name: str | None) -> Iterator[None]:
        """Note that a run is incomplete, and continue; of many runs with the same reason, one is logged."""
        try:
            yield
        except Exception as error:  # wandb's, of its network, service or files
            what, reason = name or "the study", message_of(error)
            if reason not in self._missing.values():
                logger.warning("Weights & Biases did not take a part of %s; %s has it: %s", what, self.folder, reason)
            self._missing.setdefault(what, reason)


if TYPE_CHECKING:
    _tracker: Tracker = WandbTracker("")
