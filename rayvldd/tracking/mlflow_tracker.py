"""Tracker that writes to MLflow: a parent run for the study, a child run for every trial.

Only ``MlflowClient`` with explicit run ids is used, never the library's active run: the only writer is the outbox of
the driver, which has several trials open at the same time. Runs are identified by their tags: a resumed study
continues its runs, and repeating a request whose response was lost creates no second run.
"""

import getpass
import json
import logging
import re
import secrets
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from PIL import Image

from rayvldd.background import RepeatedCall
from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, MEAN_RECALL
from rayvldd.config.settings import DataSettings, HuggingFaceData, ToyScenesData
from rayvldd.config.study import Study, sections_where
from rayvldd.errors import RayvlddError, message_of
from rayvldd.printable import without_passwords
from rayvldd.records.json_values import JsonValue
from rayvldd.records.set_card import card_in
from rayvldd.records.student_card import STUDENT, STUDENT_CARD, StudentCard
from rayvldd.tracking.code_version import code_version
from rayvldd.tracking.identity import study_identity
from rayvldd.tracking.mlflow_captions import CAPTIONS_TABLE, TABLES, TABLES_TAG, captions_table
from rayvldd.tracking.mlflow_notes import NOTE, RUN_ID, note_of_study, note_of_trial
from rayvldd.tracking.outbox import Outbox
from rayvldd.tracking.protocol import Origins, Scores, State, Tracker, kind_of
from rayvldd.tracking.set_source import BEST_ALIAS
from rayvldd.tracking.sqlite_file import ready_sqlite
from rayvldd.tracking.system_metrics import EVERY_S, SYSTEM, MachineSampler
from rayvldd.tracking.verdicts import PermanentError, verdict_of
from rayvldd.workspace import database_file

EXPERIMENT = "rayvldd"
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Kind of experiment for MLflow's pages: training runs with charts, not traces of language models."""

_STATUS: dict[State, str] = {
    "finished": "FINISHED",
    "stopped": "KILLED",  # by the stopping rule; the tag rayvldd.state distinguishes it from an interruption
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_MAX_PARAM = 500
"""Maximum length of a parameter's value, in characters, on servers of older versions."""
_MAX_TAG = 5000
_MAX_PARAMS_A_BATCH = 100
_SEARCHED, _SCORED = sections_where(lambda info: info.searchable), ("data", "model", "evaluation")
"""Sections of a study that are the parameters of a trial, and of an evaluation."""
_DETAIL = re.compile(
    r"(val|test)_.*_r(5|10)|matching_loss_.*|drift|rollbacks|.*seconds(?!_total).*|.*_of_all_sets|student_.*"
)
"""Metrics in a separate section of MLflow's pages, so that the main section has only those used for comparison."""
_FIRST = "Recall/"
"""Section of the pages with a copy of each mean recall, so that they come first: MLflow sorts sections by name, capital
letters before others, and puts its main section, of names without a slash, behind all of them."""
_PATIENCE_S: dict[State, float] = {"finished": 600.0, "failed": 60.0, "interrupted": 10.0}
"""Seconds that the end of a study waits for an unavailable server; unfinished ones can be resumed."""


class MlflowTracker:
    """Writes to an MLflow server or database.

    Args:
        uri: Tracking URI, e.g. ``http://127.0.0.1:5000`` or ``sqlite:////folder/mlflow.db``.
        artifacts: Folder for the artifacts of the embedded database; default: the server's location.
        origin: Distinguishes studies with the same name and settings on a shared server, e.g. the folder.

    Raises:
        RayvlddError: if the URI cannot be used or does not answer.
    """

    def __init__(self, uri: str, artifacts: Path | None = None, *, origin: str = "") -> None:
        self.uri = without_passwords(uri)
        self._uri = uri
        self._origin = origin
        self._outbox = Outbox(f"the tracking server {self.uri}", verdict_of)
        self._study_run = ""
        self._study_started_s = 0.0
        """Start of the study's first session, in seconds since 1970."""
        self._trial_runs: dict[str, str] = {}
        self._open_trials: set[str] = set()
        self._command = ""
        self._best_recalls: dict[str, float] = {}
        """Trial -> highest validation recall so far."""
        self._done: set[str] = set()
        """Trials whose run was closed in an earlier session and is complete."""
        self._last_steps: dict[str, dict[str, int]] = {}
        """Run id -> metric -> last step written."""
        with _quiet(), _answering(self.uri):
            if file := database_file(uri):
                ready_sqlite(file)
            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = _experiment(self._client, self.uri, artifacts)

    def start_study(self, study: Study, command: str) -> None:
        """Open the parent run, or find the unfinished one of the same study and command."""
        self._study, self._command = study, command
        identity = study_identity(study, command, self._origin)
        tags = {
            "rayvldd.kind": kind_of(command),
            "rayvldd.study": study.name,
            "rayvldd.identity": identity,
            "rayvldd.command": command,
            "rayvldd.searched": ", ".join(study.space.domains)[:_MAX_TAG],
            NOTE: f"`{command}`",
        }
        same = f"tags.`rayvldd.identity` = '{identity}'"
        with _answering(self.uri):
            found = self._newest_run(f"{same} and attributes.status != 'FINISHED'")
            found = found or self._newest_run(f"{same} and tags.`{_MISSING}` != ''")
            self._study_run = self._open_run(found, study.name, tags, _params(study))
            opened = self._client.get_run(self._study_run).info
            self._study_started_s = opened.start_time / 1e3
        try:
            self._try_artifacts(opened.artifact_uri)
        except RayvlddError:  # no work follows, and the run must not be shown as running
            self._client.set_terminated(self._study_run, _STATUS["interrupted"])
            raise

    def start_trial(self, trial_id: str, point: Mapping[str, SettingValue]) -> None:
        """Open the child run of a trial, or find the existing one."""
        self._open_trials.add(trial_id)
        self._outbox.put(trial_id, partial(self._open_trial, trial_id, dict(point)), what=f"the run of {trial_id}")

    def log_origins(self, trial_id: str | None, origins: Origins) -> None:
        """Write the dataset as an input of the run, and the expert set and encoders as its tags."""
        write = partial(self._write_origins_of, trial_id, self._study.data, origins)
        self._outbox.put(trial_id or _STUDY, write, what=f"the origins of {trial_id or 'the study'}")

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a trial or, without one, of the study; steps that were written before are skipped."""
        entries = _entries(metrics, step)
        if trial_id is not None and BEST_VAL_MEAN_RECALL in metrics:
            self._best_recalls[trial_id] = float(metrics[BEST_VAL_MEAN_RECALL])
        what = f"metrics of {trial_id or 'the study'}"
        self._outbox.put(trial_id or _STUDY, partial(self._write_metrics, trial_id), entries, what=what)

    def log_picture(self, trial_id: str, file: Path, step: int) -> None:
        """Write a picture of a trial at a step, which MLflow's pages show with a slider; a step is written once."""
        write = partial(self._write_picture, trial_id, file, step)
        self._outbox.put(trial_id, write, what=f"the picture of {trial_id} at step {step}")

    def sampling_machine(self) -> AbstractContextManager[object]:
        """Write the use of this machine to the study's run every ten seconds while a block runs, by the outbox."""
        sampler = MachineSampler()
        write = partial(self._write_metrics, None)

        def sample() -> None:
            if any(dropped.what == _SAMPLES for dropped in self._outbox.dropped):  # one is known to be missing
                return
            # Counted from the study's start, the steps of a later session follow those of earlier ones.
            step = int((time.time() - self._study_started_s) / EVERY_S)
            self._outbox.put(_STUDY, write, _entries(sampler.sample(), step), what=_SAMPLES)

        return RepeatedCall("system metrics", EVERY_S, sample, "the use of the machine was not read")

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Close the child run of a trial with its artifacts and tags.

        These are separate writes, so that a rejected one does not keep the run from being closed.
        """
        self._open_trials.discard(trial_id)
        if artifacts is not None:
            write = partial(self._write_artifacts, trial_id, artifacts)
            self._outbox.put(trial_id, write, what=f"the artifacts of {trial_id}")
        tags = {**tags, NOTE: note_of_trial(state, self._best_recalls.get(trial_id), artifacts)}
        self._outbox.put(trial_id, partial(self._write_tags, trial_id, state, tags), what=f"tags of {trial_id}")
        self._outbox.put(trial_id, partial(self._close, trial_id, state), what=f"the state of {trial_id}")

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Close the parent run with the metrics of the whole study; open trials end as interrupted."""
        for trial_id in sorted(self._open_trials):
            self.end_trial(trial_id, "interrupted", None, {})
        note = note_of_study(metrics, artifacts, self._command)
        self._outbox.put(_STUDY, partial(self._write_final, _entries(metrics, 0)), what="metrics of the study")
        if artifacts is not None:
            write = partial(self._write_artifacts, None, artifacts)
            self._outbox.put(_STUDY, write, what=_STUDY_ARTIFACTS)
            if state == "finished" and kind_of(self._command) == "study" and _is_improved(artifacts):
                self._register_later(artifacts, note)
        tags = {NOTE: note}
        self._outbox.put(_STUDY, partial(self._write_tags, None, state, tags), what="tags of the study")
        self._outbox.put(_STUDY, partial(self._close, None, state), what="the state of the study")
        self._wait(_PATIENCE_S[state])

    def _register_later(self, artifacts: Path, note: str) -> None:
        """Queue the set of the study as a model version; with a student, MLflow can serve the version."""
        card = artifacts / STUDENT / STUDENT_CARD
        if card.is_file():
            student, name = StudentCard.read(card), self._study.name
            self._outbox.put(_STUDY, partial(self._write_model, artifacts, student), what="the files of the model")
            note += f"\n\nServe the student: `mlflow models serve -m models:/{name}@{BEST_ALIAS} --env-manager local`"
        self._outbox.put(_STUDY, partial(self._register, self._study.name, note), what="the model version")

    def log_scores(self, scores: Scores) -> None:
        """Write an evaluation as a separate run: each student is a step, the last step has the mean over students."""
        self._study = scores.study
        entries, record = _entries_of_scores(scores), secrets.token_hex(8)
        self._outbox.put(record, partial(self._open_scores, scores, record), what=f"the run of {scores.name}")
        self._outbox.put(record, partial(self._write_metrics, record), entries, what=f"metrics of {scores.name}")
        if scores.origins.fingerprints:
            write = partial(self._write_origins_of, record, scores.study.data, scores.origins)
            self._outbox.put(record, write, what=f"the origins of {scores.name}")
        self._outbox.put(record, partial(self._write_tags, record, "finished", {}), what=f"tags of {scores.name}")
        self._outbox.put(record, partial(self._close, record, "finished"), what=f"the state of {scores.name}")
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
            return
        logging.getLogger(__name__).warning(
            "%s did not answer for %.0f s: %d writes are missing there; the workspace has everything",
            self.uri,
            patience_s,
            len(self._outbox),
        )

    def _newest_run(self, query: str) -> Run | None:
        found = self._client.search_runs([self._experiment], query, max_results=1, order_by=["start_time DESC"])
        return found[0] if found else None

    def _run_id(self, trial_id: str | None) -> str:
        if trial_id is None:
            return self._study_run
        if trial_id not in self._trial_runs:
            raise _NoRunError(f"{trial_id}: its run could not be opened")
        return self._trial_runs[trial_id]

    def _open_trial(self, trial_id: str, point: dict[str, SettingValue]) -> None:
        tags = {
            "rayvldd.kind": "trial",
            "rayvldd.study": self._study.name,
            "rayvldd.trial_id": trial_id,
            "rayvldd.searched": ", ".join(point)[:_MAX_TAG],
            "mlflow.parentRunId": self._study_run,
        }
        params = _params_of_trial(self._study, point)
        query = f"tags.`mlflow.parentRunId` = '{self._study_run}' and tags.`rayvldd.trial_id` = '{trial_id}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        known = found[0] if found else None
        if known and _is_complete(known):
            self._done.add(trial_id)
            return
        name = f"{self._study.name}/{trial_id.removeprefix('trial_')}"
        self._trial_runs[trial_id] = self._open_run(known, name, tags, params)

    def _open_run(self, known: Run | None, name: str, tags: dict[str, str], params: dict[str, str]) -> str:
        """Create a run, or continue an existing one; only missing tags and parameters are written."""
        tags = {**tags, **_common_tags(self._study)}
        if known is None:
            known = self._client.create_run(self._experiment, run_name=name, tags=tags)
        elif known.info.status != "FINISHED":
            self._client.update_run(known.info.run_id, status="RUNNING")
        run_id: str = known.info.run_id
        missing = [Param(key, value) for key, value in params.items() if key not in known.data.params]
        for start in range(0, len(missing), _MAX_PARAMS_A_BATCH):
            self._client.log_batch(run_id, params=missing[start : start + _MAX_PARAMS_A_BATCH])
        self._last_steps[run_id] = {
            key: max(entry.step for entry in self._client.get_metric_history(run_id, key))
            for key in known.data.metrics
            if not key.startswith(SYSTEM)  # thousands, whose steps follow from the time
        }
        return run_id

    def _write_origins_of(self, trial_id: str | None, data: DataSettings, origins: Origins) -> None:
        if trial_id not in self._done:
            self._write_origins(self._run_id(trial_id), data, origins)

    def _write_origins(self, run_id: str, data: DataSettings, origins: Origins) -> None:
        """Write the origins of a run; MLflow stores a repeated input only once."""
        tags = {f"rayvldd.{name}": value for name, value in origins.fingerprints.items()}
        tags |= {"rayvldd.expert_set": origins.expert_set} if origins.expert_set else {}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        place = data.name if isinstance(data, HuggingFaceData) else "" if isinstance(data, ToyScenesData) else data.root
        name = Path(place).name or data.source
        dataset = Dataset(name, origins.fingerprints["data"], data.source, json.dumps(data.model_dump(mode="json")))
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _write_metrics(self, trial_id: str | None, entries: list[Metric]) -> None:
        if trial_id in self._done:
            return
        run_id = self._run_id(trial_id)
        last = self._last_steps[run_id]
        new = [entry for entry in entries if entry.step > last.get(entry.key, -1)]
        if new:
            self._client.log_batch(run_id, metrics=new)
            last.update({entry.key: entry.step for entry in new})

    def _write_final(self, entries: list[Metric]) -> None:
        """Write the study's figures after those that an interrupted part of it ended with."""
        last = self._last_steps[self._study_run]
        moved = [Metric(entry.key, entry.value, entry.timestamp, last.get(entry.key, -1) + 1) for entry in entries]
        if moved:
            self._client.log_batch(self._study_run, metrics=moved)

    def _open_scores(self, scores: Scores, record: str) -> None:
        tags = {"rayvldd.kind": scores.kind, "rayvldd.study": scores.study.name, "rayvldd.command": scores.command}
        tags |= {"rayvldd.split": scores.split, NOTE: f"`{scores.command}`", "rayvldd.record": record}
        texts = {key: str(value)[:_MAX_PARAM] for key, value in scores.settings.items()}
        known = self._client.search_runs([self._experiment], f"tags.`rayvldd.record` = '{record}'", max_results=1)
        params = {**_params(scores.study, _SCORED), **texts}
        self._trial_runs[record] = self._open_run(known[0] if known else None, scores.name, tags, params)

    def _write_artifacts(self, trial_id: str | None, artifacts: Path) -> None:
        if trial_id in self._done:
            return
        run_id = self._run_id(trial_id)
        self._client.log_artifacts(run_id, str(artifacts))
        if table := captions_table(artifacts):
            self._client.log_dict(run_id, table, CAPTIONS_TABLE)
            self._client.set_tag(run_id, TABLES_TAG, TABLES)

    def _write_picture(self, trial_id: str, file: Path, step: int) -> None:
        if trial_id in self._done:
            return
        run_id = self._run_id(trial_id)
        whole = f"{_PICTURES}+step+{step}+"  # MLflow writes a picture and then, of the same step, its compressed form
        known = [artifact.path for artifact in self._client.list_artifacts(run_id, "images")]
        if any(Path(path).name.startswith(whole) and "+compressed" in path for path in known):
            return
        try:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
        except (OSError, SyntaxError) as error:  # Pillow's for a damaged file; an OSError would be tried again for ever
            raise PermanentError(f"{file}: {message_of(error)}") from error
        self._client.log_image(run_id, picture, key=_PICTURES, step=step)

    def _write_tags(self, trial_id: str | None, state: State, tags: dict[str, str]) -> None:
        """Write the tags of an ended run, and a tag with its missing parts, by which it is found and completed."""
        if trial_id in self._done:
            return
        run_id, lane = self._run_id(trial_id), trial_id or _STUDY
        # The study's run has those of its trials too: by the tag, the same command finds the run and completes both.
        dropped = (one for one in self._outbox.dropped if lane in (one.lane, _STUDY))
        missing = "; ".join(map(str, dropped))
        values = {**tags, "rayvldd.state": state} | ({_MISSING: missing} if missing else {})
        if NOTE in values:
            values[NOTE] = values[NOTE].replace(RUN_ID, run_id)
        entries = [RunTag(key, str(value)[:_MAX_TAG]) for key, value in values.items()]
        self._client.log_batch(run_id, tags=entries)
        if not missing and _MISSING in self._client.get_run(run_id).data.tags:
            self._client.delete_tag(run_id, _MISSING)

    def _close(self, trial_id: str | None, state: State) -> None:
        """Close a run after its artifacts and tags: a FINISHED run has them, or a tag that lists the missing ones."""
        if trial_id not in self._done:
            self._client.set_terminated(self._run_id(trial_id), _STATUS[state])

    def _try_artifacts(self, place: str) -> None:
        """Write a small artifact and delete it if possible; this machine may write artifacts directly to S3.

        Raises:
            RayvlddError: if artifacts cannot be written.
        """
        repository = get_artifact_repository(place, tracking_uri=self._uri)
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / "rayvldd_can_write.txt"
            probe.write_text("This file says that artifacts can be written here.\n", encoding="utf-8")
            try:
                repository.log_artifact(str(probe))
            except Exception as error:  # from MLflow, boto3, Azure or the operating system
                raise RayvlddError(
                    f"tracking URI {self.uri}: artifacts cannot be written to {place}: {message_of(error)}; allowed: "
                    f"credentials on this machine for the place that the server keeps artifacts in",
                    next_command="set them (AWS_ACCESS_KEY_ID, AWS_PROFILE, …), or repeat the command with "
                    "--tracking-uri none",
                ) from error
            with suppress(Exception):  # some stores cannot delete
                repository.delete_artifacts(probe.name)

    def _write_model(self, artifacts: Path, student: StudentCard) -> None:
        """Make the artifacts of the study a model of MLflow, with the set as the input that its student comes from."""
        from rayvldd.tracking.student_model import dataset_of, write_model_files  # seconds that only this needs

        with tempfile.TemporaryDirectory() as folder:
            write_model_files(Path(folder), STUDENT, student)
            self._client.log_artifacts(self._study_run, folder)
        dataset = dataset_of(artifacts, self._study.name, self._study_run)
        tags = [InputTag("mlflow.data.context", "student training")]
        self._client.log_inputs(self._study_run, [DatasetInput(dataset, tags)])

    def _register(self, name: str, note: str) -> None:
        """Register the set of the study's run as a model version, with the alias ``best``."""
        if any(dropped.what == _STUDY_ARTIFACTS for dropped in self._outbox.dropped):
            raise _NoRunError("the set is not among the artifacts")
        with suppress(MlflowException):  # it exists already; other errors are raised by the next call
            self._client.create_registered_model(name, description="Distilled sets that rayvldd has chosen.")
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{self._study_run}'")
        version = found[0] if found else self._new_version(name, note)
        self._client.set_registered_model_alias(name, BEST_ALIAS, version.version)

    def _new_version(self, name: str, note: str) -> ModelVersion:
        run = self._client.get_run(self._study_run)
        return self._client.create_model_version(
            name,
            run.info.artifact_uri,
            self._study_run,
            tags={"rayvldd.protocol": self._study.model.protocol},
            description=note.replace(RUN_ID, self._study_run),
        )


def _is_complete(run: Run) -> bool:
    """Whether the run of a trial that ended has everything; one of an interrupted trial is continued."""
    ended = run.data.tags.get("rayvldd.state") in ("finished", "stopped", "failed")
    return ended and run.info.status != "RUNNING" and _MISSING not in run.data.tags


def _is_improved(folder: Path) -> bool:
    """Whether a folder has a set that distillation has improved: its starting pairs are no best set."""
    card = card_in(folder)
    return card is not None and card.outer_step > 0


class _NoRunError(PermanentError):
    """A write that can never succeed, because the server rejected the run that it belongs to."""


_STUDY = ""
"""The lane of the study itself in the outbox."""
_STUDY_ARTIFACTS = "the artifacts of the study"
_PICTURES = "distilled pairs"
"""Name of the pictures by step on MLflow's pages."""
_SAMPLES = "the use of the machine"
_MISSING = "rayvldd.missing"
"""Tag of a run that ended incomplete; the same command completes it."""


def _entries(metrics: Mapping[str, float], step: int) -> list[Metric]:
    now = int(time.time() * 1000)
    details = {key for key in metrics if _DETAIL.fullmatch(key)}
    recalls = [key for key in metrics if key.endswith(MEAN_RECALL.name) and key not in details]
    named = {key: metrics[key] for key in recalls}  # first: MLflow's compare view opens with the first metric of a run
    named |= {f"{_FIRST}{key}": metrics[key] for key in recalls}
    named |= {f"details/{key}" if key in details else key: value for key, value in metrics.items()}
    return [Metric(name, float(value), now, step) for name, value in named.items()]


def _entries_of_scores(scores: Scores) -> list[Metric]:
    """The mean of every recall under its name, and each student's mean recall under ``student_…``."""
    count = len(scores.students)
    prefix = f"{scores.split}_"
    means = {f"{prefix}{key}": sum(row[key] for row in scores.students) / count for key in scores.students[0]}
    entries = _entries({**means, **scores.figures}, count)
    for number, row in enumerate(scores.students, start=1):
        entries += _entries({f"student_{prefix}{MEAN_RECALL.name}": row[MEAN_RECALL.name]}, number)
    return entries


def _params(study: Study, sections: tuple[str, ...] | None = None) -> dict[str, str]:
    values = study.model_dump(mode="json")
    chosen = {key: value for key, value in values.items() if sections is None or key in sections}
    return {key: value[:_MAX_PARAM] for key, value in _flat(chosen).items()}


def _params_of_trial(study: Study, point: Mapping[str, SettingValue]) -> dict[str, str]:
    """The searched settings of a trial, and those that its point brings with it; the others are the study's."""
    of_study = _params(study)
    at_point = _params(study.at(point), _SEARCHED)
    return {key: value for key, value in at_point.items() if key in point or of_study.get(key) != value}


def _flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Dotted key -> text for every setting with a value; a searched domain is one value."""
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not prefix.startswith("search.space."):
            flat.update(_flat(value, f"{name}."))
        elif value is not None:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _common_tags(study: Study) -> dict[str, str]:
    tags = {"rayvldd.protocol": study.model.protocol, **code_version()}
    tags |= {"mlflow.source.name": "rayvldd", "mlflow.source.type": "LOCAL"}
    try:
        return tags | {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container with a user without a name
        return tags


def _experiment(client: MlflowClient, uri: str, artifacts: Path | None) -> str:
    """Id of the package's experiment. Its artifact location cannot change, so a moved folder needs a new one."""
    location = None if artifacts is None else artifacts.absolute().as_uri()
    known = client.get_experiment_by_name(EXPERIMENT)
    name = EXPERIMENT
    if known is not None and location is not None and known.artifact_location != location:
        name = f"{EXPERIMENT} {location}"
        known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name, artifact_location=location, tags=_KIND))
    if known.lifecycle_stage != "active":
        raise RayvlddError(
            f"the MLflow experiment {name!r} was deleted",
            next_command=f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {known.experiment_id}",
        )
    return str(known.experiment_id)


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Translate any error of a client library into one about the tracking URI."""
    try:
        yield
    except RayvlddError:
        raise
    except Exception as error:  # SQL drivers, HTTP clients and MLflow have different base classes
        raise RayvlddError(
            f"tracking URI {uri}: cannot be used: {message_of(error)}; allowed: an MLflow server that answers, "
            f"sqlite:///FILE in a folder that can be written, or none",
            next_command="start the server or repair the URI; or repeat the command with --tracking-uri none",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages while a database is created: MLflow logs every migration, and its dependencies warn."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if TYPE_CHECKING:
    _tracker: Tracker = MlflowTracker("")
