"""Tracker that writes to MLflow: a parent run for the study, a child run for every trial.

The only writer is the outbox of the driver, in order within each run; ``mlflow_runs.py`` has what it writes.
"""

import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient

from rayvldd.background import RepeatedCall
from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.printable import without_passwords
from rayvldd.records.set_card import card_in
from rayvldd.records.student_card import STUDENT, STUDENT_CARD, StudentCard
from rayvldd.tracking.abandoned_runs import end_abandoned_runs, session_in
from rayvldd.tracking.identity import study_identity
from rayvldd.tracking.mlflow_notes import NOTE, note_of_study, note_of_trial
from rayvldd.tracking.mlflow_runs import STATUS, STUDY, MlflowRuns, NoRunError
from rayvldd.tracking.mlflow_server import answering, experiment_id, quiet, try_artifacts
from rayvldd.tracking.mlflow_values import MAX_TAG, entries, entries_of_scores
from rayvldd.tracking.mlflow_versions import register, write_model
from rayvldd.tracking.outbox import Outbox
from rayvldd.tracking.protocol import Origins, Scores, State, Tracker, kind_of
from rayvldd.tracking.set_source import BEST_ALIAS
from rayvldd.tracking.sqlite_file import ready_sqlite
from rayvldd.tracking.system_metrics import EVERY_S, MachineSampler
from rayvldd.tracking.verdicts import verdict_of
from rayvldd.workspace import Workspace, database_file

_PATIENCE_S: dict[State, float] = {"finished": 600.0, "failed": 60.0, "interrupted": 10.0}
"""Seconds that the end of a study waits for an unavailable server; unfinished ones can be resumed."""
_STUDY_ARTIFACTS = "the artifacts of the study"
_SAMPLES = "the use of the machine"


class MlflowTracker:
    """Writes to an MLflow server or database.

    Args:
        uri: Tracking URI, e.g. ``http://127.0.0.1:5000`` or ``sqlite:////folder/mlflow.db``.
        artifacts: Folder for the artifacts of the embedded database; default: the server's location.
        origin: Distinguishes studies with the same name and settings on a shared server, e.g. the folder.
        workspace: Has notes of the processes that log; the runs of dead ones are ended. Default: none are written.

    Raises:
        RayvlddError: if the URI cannot be used or does not answer.
    """

    def __init__(
        self, uri: str, artifacts: Path | None = None, *, origin: str = "", workspace: Workspace | None = None
    ) -> None:
        self.uri = without_passwords(uri)
        self._uri = uri
        self._origin = origin
        self._outbox = Outbox(f"the tracking server {self.uri}", verdict_of)
        self._study_started_s = 0.0
        """Start of the study's first session, in seconds since 1970."""
        self._open_trials: set[str] = set()
        self._command = ""
        self._best_recalls: dict[str, float] = {}
        """Trial -> highest validation recall so far."""
        with quiet(), answering(self.uri):
            if file := database_file(uri):
                ready_sqlite(file)
            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = experiment_id(self._client, self.uri, artifacts)
        if workspace is not None:
            end_abandoned_runs(workspace, uri, lambda: self._client)
        self._session = session_in(workspace, uri)
        self._runs = MlflowRuns(self._client, self._experiment, lambda: self._outbox.dropped, self._session.token)

    def start_study(self, study: Study, command: str, *, was_ending: bool = False) -> None:
        """Open the parent run, or find the one of the same study and command that is unfinished or was being ended."""
        self._study, self._command = study, command
        identity = study_identity(study, command, self._origin)
        tags = {
            "rayvldd.kind": kind_of(command),
            "rayvldd.study": study.name,
            "rayvldd.identity": identity,
            "rayvldd.command": command,
            "rayvldd.searched": ", ".join(study.space.domains)[:MAX_TAG],
            NOTE: f"`{command}`",
        }
        self._session.begin(identity)
        try:
            with answering(self.uri):
                self._runs.open_study(study, identity, tags, was_ending=was_ending)
                opened = self._client.get_run(self._runs.study_run).info
            self._study_started_s = opened.start_time / 1e3
            self._try_artifacts(opened.artifact_uri)
        except BaseException:  # no work follows
            self._session.end()
            raise

    def _try_artifacts(self, place: str) -> None:
        try:
            try_artifacts(self._uri, place)
        except RayvlddError:  # no work follows, and the run must not be shown as running
            self._client.set_terminated(self._runs.study_run, STATUS["interrupted"])
            raise

    def start_trial(self, trial_id: str, point: Mapping[str, SettingValue]) -> None:
        """Open the child run of a trial, or find the existing one."""
        self._open_trials.add(trial_id)
        self._outbox.put(trial_id, partial(self._runs.open_trial, trial_id, dict(point)), what=f"the run of {trial_id}")

    def log_origins(self, trial_id: str | None, origins: Origins) -> None:
        """Write the dataset as an input of the run, and the expert set and encoders as its tags."""
        write = partial(self._runs.write_origins, trial_id, self._study.data, origins)
        self._outbox.put(trial_id or STUDY, write, what=f"the origins of {trial_id or 'the study'}")

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a trial or, without one, of the study; steps that were written before are skipped."""
        rows = entries(metrics, step)
        if trial_id is not None and BEST_VAL_MEAN_RECALL in metrics:
            self._best_recalls[trial_id] = float(metrics[BEST_VAL_MEAN_RECALL])
        what = f"metrics of {trial_id or 'the study'}"
        self._outbox.put(trial_id or STUDY, partial(self._runs.write_metrics, trial_id), rows, what=what)

    def log_picture(self, trial_id: str, file: Path, step: int) -> None:
        """Write a picture of a trial at a step, which MLflow's pages show with a slider; a step is written once."""
        write = partial(self._runs.write_picture, trial_id, file, step)
        self._outbox.put(trial_id, write, what=f"the picture of {trial_id} at step {step}")

    def sampling_machine(self) -> AbstractContextManager[object]:
        """Write the use of this machine to the study's run every ten seconds while a block runs, by the outbox."""
        sampler = MachineSampler()
        write = partial(self._runs.write_metrics, None)

        def sample() -> None:
            if any(dropped.what == _SAMPLES for dropped in self._outbox.dropped):  # one is known to be missing
                return
            # Counted from the study's start, the steps of a later session follow those of earlier ones.
            step = int((time.time() - self._study_started_s) / EVERY_S)
            self._outbox.put(STUDY, write, entries(sampler.sample(), step), what=_SAMPLES)

        return RepeatedCall("system metrics", EVERY_S, sample, "the use of the machine was not read")

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Close the child run of a trial with its artifacts and tags.

        These are separate writes, so that a rejected one does not keep the run from being closed.
        """
        self._open_trials.discard(trial_id)
        if artifacts is not None:
            write = partial(self._runs.write_artifacts, trial_id, artifacts)
            self._outbox.put(trial_id, write, what=f"the artifacts of {trial_id}")
        tags = {**tags, NOTE: note_of_trial(state, self._best_recalls.get(trial_id), artifacts)}
        self._outbox.put(trial_id, partial(self._runs.write_tags, trial_id, state, tags), what=f"tags of {trial_id}")
        self._outbox.put(trial_id, partial(self._runs.close, trial_id, state), what=f"the state of {trial_id}")

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Close the parent run with the metrics of the whole study; open trials end as interrupted."""
        for trial_id in sorted(self._open_trials):
            self.end_trial(trial_id, "interrupted", None, {})
        note = note_of_study(metrics, artifacts, self._command)
        self._outbox.put(STUDY, partial(self._runs.write_final, entries(metrics, 0)), what="metrics of the study")
        if artifacts is not None:
            write = partial(self._runs.write_artifacts, None, artifacts)
            self._outbox.put(STUDY, write, what=_STUDY_ARTIFACTS)
            if state == "finished" and kind_of(self._command) == "study" and _is_improved(artifacts):
                self._register_later(artifacts, note)
        tags = {NOTE: note}
        self._outbox.put(STUDY, partial(self._runs.write_tags, None, state, tags), what="tags of the study")
        self._outbox.put(STUDY, partial(self._runs.close, None, state), what="the state of the study")
        self._wait(_PATIENCE_S[state])

    def _register_later(self, artifacts: Path, note: str) -> None:
        """Queue the set of the study as a model version; with a student, MLflow can serve the version."""
        card = artifacts / STUDENT / STUDENT_CARD
        if card.is_file():
            student, name = StudentCard.read(card), self._study.name
            write = partial(write_model, self._client, self._runs.study_run, name, artifacts, student)
            self._outbox.put(STUDY, write, what="the files of the model")
            note += f"\n\nServe the student: `mlflow models serve -m models:/{name}@{BEST_ALIAS} --env-manager local`"
        self._outbox.put(STUDY, partial(self._register, note), what="the model version")

    def _register(self, note: str) -> None:
        """Register the set of the study, if it is among the artifacts."""
        if any(dropped.what == _STUDY_ARTIFACTS for dropped in self._outbox.dropped):
            raise NoRunError("the set is not among the artifacts")
        register(self._client, self._runs.study_run, self._study.name, self._study.model.protocol, note)

    def log_scores(self, scores: Scores) -> None:
        """Write an evaluation as a separate run: each student is a step, the last step has the mean over students."""
        self._study = scores.study
        rows, record = entries_of_scores(scores), secrets.token_hex(8)
        self._session.begin("")
        self._outbox.put(record, partial(self._runs.open_scores, scores, record), what=f"the run of {scores.name}")
        self._outbox.put(record, partial(self._runs.write_metrics, record), rows, what=f"metrics of {scores.name}")
        if scores.origins.fingerprints:
            write = partial(self._runs.write_origins, record, scores.study.data, scores.origins)
            self._outbox.put(record, write, what=f"the origins of {scores.name}")
        self._outbox.put(record, partial(self._runs.write_tags, record, "finished", {}), what=f"tags of {scores.name}")
        self._outbox.put(record, partial(self._runs.close, record, "finished"), what=f"the state of {scores.name}")
        self._wait(_PATIENCE_S["finished"])

    @property
    def missing(self) -> tuple[str, ...]:
        """Writes that the server does not have so far, each with the reason."""
        late = len(self._outbox)
        waiting = (f"{late} writes: the server did not answer",) if late else ()
        return (*map(str, self._outbox.dropped), *waiting)

    def _wait(self, patience_s: float) -> None:
        """Wait for the outbox, and log the number of missing writes; the workspace contains their data."""
        if self._outbox.wait(patience_s):
            self._session.end()
            return
        logging.getLogger(__name__).warning(
            "%s did not answer for %.0f s: %d writes are missing there; the workspace has everything",
            self.uri,
            patience_s,
            len(self._outbox),
        )


def _is_improved(folder: Path) -> bool:
    """Whether a folder has a set that distillation has improved: its starting pairs are no best set."""
    card = card_in(folder)
    return card is not None and card.outer_step > 0


if TYPE_CHECKING:
    _tracker: Tracker = MlflowTracker("")
