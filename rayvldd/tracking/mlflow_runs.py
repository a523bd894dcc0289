"""Runs of MLflow: found or opened, written and closed, as the outbox of the tracker requests it.

Only ``MlflowClient`` with explicit run ids is used, never the library's active run, as several runs are open at the
same time. Runs are identified by their tags: a resumed study continues its runs, and repeating a request whose response
was lost creates no second run.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image

from rayvldd.config.domains import SettingValue
from rayvldd.config.settings import DataSettings, HuggingFaceData, ToyScenesData
from rayvldd.config.study import Study
from rayvldd.errors import message_of
from rayvldd.tracking.abandoned_runs import INTERRUPTION, SESSION, STATE
from rayvldd.tracking.mlflow_captions import CAPTIONS_TABLE, TABLES, TABLES_TAG, captions_table
from rayvldd.tracking.mlflow_notes import NOTE, RUN_ID
from rayvldd.tracking.mlflow_pages import view_of_trials
from rayvldd.tracking.mlflow_values import (
    MAX_PARAM,
    MAX_TAG,
    SCORED,
    common_tags,
    params,
    params_of_trial,
)
from rayvldd.tracking.outbox import Dropped
from rayvldd.tracking.protocol import Origins, Scores, State
from rayvldd.tracking.system_metrics import SYSTEM
from rayvldd.tracking.verdicts import PermanentError

STATUS: dict[State, str] = {
    "finished": "FINISHED",
    "stopped": "KILLED",  # by the stopping rule; the tag rayvldd.state distinguishes it from an interruption
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_MAX_PARAMS_A_BATCH = 100
STUDY = ""
"""The lane of the study itself in the outbox."""
_PICTURES = "distilled pairs"
"""Name of the pictures by step on MLflow's pages."""
MISSING = "rayvldd.missing"
"""Tag of a run that ended incomplete; the same command completes it."""


class NoRunError(PermanentError):
    """A write that can never succeed, because the server rejected the run that it belongs to."""


class MlflowRuns:
    """The runs of a study and of its trials; those of trials that are complete already are not written again.

    Args:
        client: Client of the server.
        experiment: Id of the experiment.
        dropped: Returns the writes that the outbox has dropped.
        token: Of this process, by which others find the runs that it leaves open.
    """

    def __init__(
        self, client: MlflowClient, experiment: str, dropped: Callable[[], Sequence[Dropped]], token: str
    ) -> None:
        self._client = client
        self._experiment = experiment
        self._dropped = dropped
        self._token = token
        self._study: Study
        self.study_run = ""
        """Id of the study's run."""
        self._trial_runs: dict[str, str] = {}
        self._done: set[str] = set()
        """Trials whose run was closed in an earlier session and is complete."""
        self._last_steps: dict[str, dict[str, int]] = {}
        """Run id -> metric -> last step written."""

    def open_study(self, study: Study, identity: str, tags: dict[str, str], *, was_ending: bool) -> None:
        """Open the run of a study, or find the unfinished one with its identity, or one that lacks writes.

        Args:
            study: The study.
            identity: What distinguishes it from other studies.
            tags: Tags of a new run.
            was_ending: Whether a finished run is that of an earlier session, which was cut off after it had closed it.
        """
        self._study = study
        same = f"tags.`rayvldd.identity` = '{identity}'"
        found = self._newest_run(f"{same} and attributes.status != 'FINISHED'")
        found = found or self._newest_run(f"{same} and tags.`{MISSING}` != ''")
        found = found or (self._newest_run(same) if was_ending else None)
        self.study_run = self._open_run(found, study.name, tags, params(study))
        if tags["rayvldd.kind"] == "study":
            with suppress(MlflowException):  # e.g. of a user who may not change the experiment: the page has no columns
                self._client.set_experiment_tag(self._experiment, *view_of_trials(study.name, [*study.space.domains]))

    def open_trial(self, trial_id: str, point: dict[str, SettingValue]) -> None:
        """Open the run of a trial, or find the existing one."""
        tags = {
            "rayvldd.kind": "trial",
            "rayvldd.study": self._study.name,
            "rayvldd.trial_id": trial_id,
            "rayvldd.searched": ", ".join(point)[:MAX_TAG],
            "mlflow.parentRunId": self.study_run,
        }
        values = params_of_trial(self._study, point)
        query = f"tags.`mlflow.parentRunId` = '{self.study_run}' and tags.`rayvldd.trial_id` = '{trial_id}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        known = found[0] if found else None
        if known and _is_complete(known):
            self._done.add(trial_id)
            return
        name = f"{self._study.name}/{trial_id.removeprefix('trial_')}"
        self._trial_runs[trial_id] = self._open_run(known, name, tags, values)

    def write_origins(self, trial_id: str | None, data: DataSettings, origins: Origins) -> None:
        """Write the dataset, the expert set and the encoders of a run."""
        if trial_id not in self._done:
            self._write_origins(self._run_id(trial_id), data, origins)

    def write_metrics(self, trial_id: str | None, entries: list[Metric]) -> None:
        """Write the metrics of steps after the last one written."""
        if trial_id in self._done:
            return
        run_id = self._run_id(trial_id)
        last = self._last_steps[run_id]
        new = [entry for entry in entries if entry.step > last.get(entry.key, -1)]
        if new:
            self._client.log_batch(run_id, metrics=new)
            last.update({entry.key: entry.step for entry in new})

    def write_final(self, entries: list[Metric]) -> None:
        """Write the study's figures after those that an interrupted part of it ended with."""
        last = self._last_steps[self.study_run]
        moved = [Metric(entry.key, entry.value, entry.timestamp, last.get(entry.key, -1) + 1) for entry in entries]
        if moved:
            self._client.log_batch(self.study_run, metrics=moved)

    def open_scores(self, scores: Scores, record: str) -> None:
        """Open the run of an evaluation, or find the existing one by the name of its record."""
        self._study = scores.study
        tags = {"rayvldd.kind": scores.kind, "rayvldd.study": scores.study.name, "rayvldd.command": scores.command}
        tags |= {"rayvldd.split": scores.split, NOTE: f"`{scores.command}`", "rayvldd.record": record}
        texts = {key: str(value)[:MAX_PARAM] for key, value in scores.settings.items()}
        known = self._client.search_runs([self._experiment], f"tags.`rayvldd.record` = '{record}'", max_results=1)
        values = {**params(scores.study, SCORED), **texts}
        self._trial_runs[record] = self._open_run(known[0] if known else None, scores.name, tags, values)

    def write_artifacts(self, trial_id: str | None, artifacts: Path) -> None:
        """Write a folder of artifacts, and its captions as a table."""
        if trial_id in self._done:
            return
        run_id = self._run_id(trial_id)
        self._client.log_artifacts(run_id, str(artifacts))
        if table := captions_table(artifacts):
            self._client.log_dict(run_id, table, CAPTIONS_TABLE)
            self._client.set_tag(run_id, TABLES_TAG, TABLES)

    def write_picture(self, trial_id: str, file: Path, step: int) -> None:
        """Write a picture of a step, unless the run has it."""
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

    def write_tags(self, trial_id: str | None, state: State, tags: dict[str, str]) -> None:
        """Write the tags of an ended run, and a tag with its missing parts, by which it is found and completed."""
        if trial_id in self._done:
            return
        run_id, lane = self._run_id(trial_id), trial_id or STUDY
        # The study's run has those of its trials too: by the tag, the same command finds the run and completes both.
        dropped = (one for one in self._dropped() if lane in (one.lane, STUDY))
        missing = "; ".join(map(str, dropped))
        values = {**tags, STATE: state} | ({MISSING: missing} if missing else {})
        if NOTE in values:
            values[NOTE] = values[NOTE].replace(RUN_ID, run_id)
        entries = [RunTag(key, str(value)[:MAX_TAG]) for key, value in values.items()]
        self._client.log_batch(run_id, tags=entries)
        if not missing and MISSING in self._client.get_run(run_id).data.tags:
            self._client.delete_tag(run_id, MISSING)

    def close(self, trial_id: str | None, state: State) -> None:
        """Close a run after its artifacts and tags: a FINISHED run has them, or a tag that lists the missing ones."""
        if trial_id not in self._done:
            self._client.set_terminated(self._run_id(trial_id), STATUS[state])

    def _newest_run(self, query: str) -> Run | None:
        found = self._client.search_runs([self._experiment], query, max_results=1, order_by=["start_time DESC"])
        return found[0] if found else None

    def _run_id(self, trial_id: str | None) -> str:
        if trial_id is None:
            return self.study_run
        if trial_id not in self._trial_runs:
            raise NoRunError(f"{trial_id}: its run could not be opened")
        return self._trial_runs[trial_id]

    def _open_run(self, known: Run | None, name: str, tags: dict[str, str], values: dict[str, str]) -> str:
        """Create a run, or continue an existing one; only missing tags and parameters are written."""
        tags = {**tags, **common_tags(self._study), SESSION: self._token}
        if known is None:
            known = self._client.create_run(self._experiment, run_name=name, tags=tags)
        elif known.info.status != "FINISHED":
            self._client.set_tag(known.info.run_id, SESSION, self._token)
            if INTERRUPTION in known.data.tags:
                self._client.delete_tag(known.info.run_id, INTERRUPTION)
            self._client.update_run(known.info.run_id, status="RUNNING")
        run_id: str = known.info.run_id
        missing = [Param(key, value) for key, value in values.items() if key not in known.data.params]
        for start in range(0, len(missing), _MAX_PARAMS_A_BATCH):
            self._client.log_batch(run_id, params=missing[start : start + _MAX_PARAMS_A_BATCH])
        self._last_steps[run_id] = {
            key: max(entry.step for entry in self._client.get_metric_history(run_id, key))
            for key in known.data.metrics
            if not key.startswith(SYSTEM)  # thousands, whose steps follow from the time
        }
        return run_id

    def _write_origins(self, run_id: str, data: DataSettings, origins: Origins) -> None:
        """Write the origins of a run; MLflow stores a repeated input only once."""
        tags = {f"rayvldd.{name}": value for name, value in origins.fingerprints.items()}
        tags |= {"rayvldd.expert_set": origins.expert_set} if origins.expert_set else {}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        place = data.name if isinstance(data, HuggingFaceData) else "" if isinstance(data, ToyScenesData) else data.root
        name = Path(place).name or data.source
        dataset = Dataset(name, origins.fingerprints["data"], data.source, json.dumps(data.model_dump(mode="json")))
        self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _is_complete(run: Run) -> bool:
    """Whether the run of a trial that ended has everything; one of an interrupted trial is continued."""
    ended = run.data.tags.get(STATE) in ("finished", "stopped", "failed")
    return ended and run.info.status != "RUNNING" and MISSING not in run.data.tags
