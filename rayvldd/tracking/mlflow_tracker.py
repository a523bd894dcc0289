"""MLflow: a parent run for the study, a child run for every trial.

Only ``MlflowClient`` with explicit run ids is used, never the library's current run: the one writer is the driver,
and it has several trials open at once. Runs are found again by their tags, so a study that continues goes on in the
runs it began.
"""

import getpass
import json
import logging
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

import rayvldd
from rayvldd.config.domains import Scalar
from rayvldd.config.study import Study
from rayvldd.data.array_cache import fingerprint
from rayvldd.errors import RayvlddError
from rayvldd.tracking.outbox import Outbox
from rayvldd.tracking.protocol import State, Tracker

EXPERIMENT = "rayvldd"

_STATUS: dict[State, str] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",  # stopping early is how the search works, not a fault; the tag tells the two apart
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_MAX_PARAM = 500
"""Characters of a parameter's value: what servers of older versions take."""
_MAX_TAG = 5000
_MAX_PARAMS_A_BATCH = 100


class MlflowTracker:
    """Writes to an MLflow server or database.

    Args:
        uri: Tracking URI, e.g. ``http://127.0.0.1:5000`` or ``sqlite:////folder/mlflow.db``.
        artifacts: Folder for the artifacts of the embedded database; default: wherever the server keeps them.
        origin: What tells this study from one with the same name and settings on a shared server, e.g. its folder.

    Raises:
        RayvlddError: when the URI cannot be used or does not answer.
    """

    def __init__(self, uri: str, artifacts: Path | None = None, *, origin: str = "") -> None:
        self.uri = uri
        self._origin = origin
        self._outbox = Outbox(f"the tracking server {uri}", _is_away)
        self._study_run = ""
        self._trial_runs: dict[str, str] = {}
        self._open_trials: set[str] = set()
        self._last_steps: dict[str, dict[str, int]] = {}
        """Run id to metric to the last step written."""
        with _quiet(), _answering(uri):
            _check_sqlite(uri)
            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = _experiment(self._client, uri, artifacts)

    def start_study(self, study: Study, command: str) -> None:
        """Open the parent run, or find the unfinished one of the same study and command."""
        self._study = study
        identity = _identity(study, command, self._origin)
        tags = {
            "rayvldd.kind": "study",
            "rayvldd.study": study.name,
            "rayvldd.identity": identity,
            "rayvldd.command": command,
            "mlflow.note.content": f"`{command}`",
        }
        query = f"tags.`rayvldd.identity` = '{identity}' and attributes.status != 'FINISHED'"
        with _answering(self.uri):
            found = self._client.search_runs([self._experiment], query, max_results=1, order_by=["start_time DESC"])
            self._study_run = self._open_run(found[0] if found else None, study.name, tags, _params(study))
            children = f"tags.`mlflow.parentRunId` = '{self._study_run}'"
            trials = _all_runs(self._client, self._experiment, children) if found else []
        self._known_trials = {run.data.tags.get("rayvldd.trial_id", ""): run for run in trials}

    def start_trial(self, trial_id: str, point: Mapping[str, Scalar]) -> None:
        """Open the child run of a trial, or find it again."""
        self._open_trials.add(trial_id)
        self._outbox.put(partial(self._open_trial, trial_id, dict(point)))

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a trial or, without one, of the study; steps that were written before are left out."""
        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._outbox.put(partial(self._write_metrics, trial_id, entries))

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Close the child run of a trial with its artifacts and tags."""
        self._open_trials.discard(trial_id)
        self._outbox.put(partial(self._close, trial_id, state, artifacts, dict(tags)))

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Close the parent run with the figures of the whole study; open trials end as interrupted."""
        for trial_id in sorted(self._open_trials):
            self.end_trial(trial_id, "interrupted", None, {})
        self._outbox.put(partial(self._write_final, dict(metrics)))
        self._outbox.put(partial(self._close, None, state, artifacts, {}))
        self._outbox.flush()
        if self._outbox:
            logging.getLogger(__name__).warning(
                "%s did not answer: %d writes of this study are missing there; the study's own folder has everything",
                self.uri,
                len(self._outbox),
            )

    def _run_id(self, trial_id: str | None) -> str:
        return self._study_run if trial_id is None else self._trial_runs[trial_id]

    def _open_trial(self, trial_id: str, point: dict[str, Scalar]) -> None:
        tags = {
            "rayvldd.kind": "trial",
            "rayvldd.study": self._study.name,
            "rayvldd.trial_id": trial_id,
            "mlflow.parentRunId": self._study_run,
        }
        params = _params(self._study.at(point), sections=("model", "experts", "distillation"))
        known = self._known_trials.get(trial_id)
        self._trial_runs[trial_id] = self._open_run(known, trial_id, tags, params)

    def _open_run(self, known: Run | None, name: str, tags: dict[str, str], params: dict[str, str]) -> str:
        """Make a run, or go on with one; what it lacks is added, what it has is not written again."""
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
            key: max(entry.step for entry in self._client.get_metric_history(run_id, key)) for key in known.data.metrics
        }
        return run_id

    def _write_metrics(self, trial_id: str | None, entries: list[Metric]) -> None:
        run_id = self._run_id(trial_id)
        last = self._last_steps[run_id]
        new = [entry for entry in entries if entry.step > last.get(entry.key, -1)]
        if new:
            self._client.log_batch(run_id, metrics=new)
            last.update({entry.key: entry.step for entry in new})

    def _write_final(self, metrics: dict[str, float]) -> None:
        """Write the study's figures after those that an interrupted part of it ended with."""
        now, last = int(time.time() * 1000), self._last_steps[self._study_run]
        entries = [Metric(key, float(value), now, last.get(key, -1) + 1) for key, value in metrics.items()]
        if entries:
            self._client.log_batch(self._study_run, metrics=entries)

    def _close(self, trial_id: str | None, state: State, artifacts: Path | None, tags: dict[str, str]) -> None:
        """Artifacts and tags come first: a run that says FINISHED has everything."""
        run_id = self._run_id(trial_id)
        if artifacts is not None:
            self._client.log_artifacts(run_id, str(artifacts))
        entries = [RunTag(key, str(value)[:_MAX_TAG]) for key, value in {**tags, "rayvldd.state": state}.items()]
        self._client.log_batch(run_id, tags=entries)
        self._client.set_terminated(run_id, _STATUS[state])


def _identity(study: Study, command: str, origin: str) -> str:
    """Name what must be the same for two calls to continue one study; options, budgets and resources may change."""
    settings = study.model_dump(mode="json", exclude={"resources": True})
    for budget in ("num_trials", "max_concurrent", "time_budget_s"):
        del settings["search"][budget]
    verb = next((word for word in command.split() if word != "rayvldd"), "")
    return fingerprint({"settings": settings, "verb": verb, "origin": origin})


def _params(study: Study, sections: tuple[str, ...] | None = None) -> dict[str, str]:
    values = study.model_dump(mode="json")
    chosen = {key: value for key, value in values.items() if sections is None or key in sections}
    return {key: value[:_MAX_PARAM] for key, value in _flat(chosen).items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key to text for every setting that has a value; a searched domain is one value."""
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not prefix.startswith("search.space."):
            flat.update(_flat(value, f"{name}."))
        elif value is not None:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _common_tags(study: Study) -> dict[str, str]:
    tags = {"rayvldd.version": rayvldd.__version__, "rayvldd.protocol": study.model.protocol}
    tags |= {"mlflow.source.name": "rayvldd", "mlflow.source.type": "LOCAL"}
    try:
        return tags | {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container whose user has no name
        return tags


def _all_runs(client: MlflowClient, experiment: str, query: str) -> list[Run]:
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], query, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _experiment(client: MlflowClient, uri: str, artifacts: Path | None) -> str:
    """The id of our experiment. Its artifact location is for ever, so a folder that was moved needs a new one."""
    location = None if artifacts is None else artifacts.absolute().as_uri()
    known = client.get_experiment_by_name(EXPERIMENT)
    name = EXPERIMENT
    if known is not None and location is not None and known.artifact_location != location:
        name = f"{EXPERIMENT} {location}"
        known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name, artifact_location=location))
    if known.lifecycle_stage != "active":
        raise RayvlddError(
            f"the MLflow experiment {name!r} was deleted",
            next_command=f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {known.experiment_id}",
        )
    return str(known.experiment_id)


def _check_sqlite(uri: str) -> None:
    """Try a SQLite file as a writer: MLflow would try it ten times, for two minutes, before it says what is wrong."""
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(f"file:{quote(path)}?mode=rwc", uri=True, timeout=10)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


def _is_away(error: Exception) -> bool:
    """Whether the server cannot be reached, rather than that the request is wrong, e.g. for a run that was deleted."""
    if isinstance(error, MlflowException):
        return error.get_http_status_code() not in (400, 404)
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)  # requests' errors are OSErrors


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Say plainly that a tracking URI cannot be used, whatever its client library raises."""
    try:
        yield
    except RayvlddError:
        raise
    except Exception as error:  # SQL drivers, HTTP clients and MLflow itself, each with its own family
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RayvlddError(
            f"tracking URI {uri}: cannot be used: {reason}; allowed: an MLflow server that answers, "
            f"sqlite:///FILE in a folder that can be written, or none",
            next_command="start the server or repair the URI; or repeat the command with --tracking-uri none",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the making of a database to itself: MLflow tells every migration, and its own dependencies warn."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if TYPE_CHECKING:
    _tracker: Tracker = MlflowTracker("")
