"""Tracker that writes plain files with one line of JSON per event; they need no server or library."""

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.records.form import Values
from rayvldd.storage.atomic import append_line
from rayvldd.storage.json_files import write_json_whole
from rayvldd.tracking.protocol import Origins, Scores, State, Tracker
from rayvldd.user_paths import user_path


class _Start(Values):
    event: Literal["start"] = "start"
    trial_id: str
    point: dict[str, SettingValue]


class _Origins(Values):
    event: Literal["origins"] = "origins"
    fingerprints: dict[str, str]
    expert_set: str = ""


class _Metrics(Values):
    model_config = ConfigDict(allow_inf_nan=True)

    event: Literal["metrics"] = "metrics"
    step: int
    metrics: dict[str, float]


class _TrialEnd(Values):
    event: Literal["end"] = "end"
    state: State
    tags: dict[str, str]


class _StudyEnd(Values):
    model_config = ConfigDict(allow_inf_nan=True)

    event: Literal["end"] = "end"
    state: State
    metrics: dict[str, float]


_Event = _Start | _Origins | _Metrics | _TrialEnd | _StudyEnd
_EVENTS: TypeAdapter[_Event] = TypeAdapter(Annotated[_Event, Field(union_mode="left_to_right")])
"""One line of a file."""


@dataclass
class _Written:
    """Events of a file, so that none is written twice when a study is resumed."""

    last_steps: dict[str, int] = field(default_factory=dict)
    """Metric -> last step."""
    last_values: dict[str, float] = field(default_factory=dict)
    """Metric -> last value."""
    origins: _Origins | None = None
    end: _TrialEnd | _StudyEnd | None = None
    """The end, unless metrics follow it."""
    num_ends: int = 0
    """Ends of all sessions."""

    def add(self, event: _Event) -> None:
        """Take note of an event of the file."""
        if isinstance(event, _Metrics):
            self.last_steps.update(dict.fromkeys(event.metrics, event.step))
            self.last_values.update(event.metrics)
            self.end = None
        elif isinstance(event, _Origins):
            self.origins = event
        elif isinstance(event, _TrialEnd | _StudyEnd):
            self.end, self.num_ends = event, self.num_ends + 1

    def next_step(self, metric: str) -> int:
        """The step after the last one of a metric; of one that only ends have, one for each session.

        The figure of an end does not count as a step: a study that is reopened goes on with the one after its trials.
        """
        return self.last_steps.get(metric, self.num_ends - 1) + 1


class FolderTracker:
    """Writes below one folder: ``study.json``, ``study.jsonl``, ``trials/<trial>.jsonl`` and ``artifacts/``.

    The first line of a trial is its point, the last one its state and tags, the others are metrics with a step.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder).absolute()
        self.uri = self.folder.as_uri()
        self._open_trials: set[str] = set()
        self._files: dict[Path, _Written] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """Empty, because failed writes raise an error."""
        return ()

    def start_study(self, study: Study, command: str, *, was_ending: bool = False) -> None:
        """Write the study's settings, or continue the files of an earlier call."""
        try:
            self._open(None)
            write_json_whole(
                self.folder / "study.json", {"command": command, "settings": study.model_dump(mode="json")}
            )
        except OSError as error:
            raise RayvlddError(
                f"{self.folder}: the study cannot be written down there: {error.strerror or error}; "
                f"allowed: a folder that you may write to",
                next_command="repeat the command with --workspace FOLDER",
            ) from error

    def start_trial(self, trial_id: str, point: Mapping[str, SettingValue]) -> None:
        """Write a trial's point, or continue its file."""
        self._open_trials.add(trial_id)
        if not self._open(trial_id):
            self._append(trial_id, _Start(trial_id=trial_id, point=dict(point)))

    def log_origins(self, trial_id: str | None, origins: Origins) -> None:
        """Write the origins of a trial or of the study; the set of experts that is known stays if none is given."""
        known = self._written(trial_id).origins
        expert_set = origins.expert_set or (known.expert_set if known else "")
        event = _Origins(fingerprints=dict(origins.fingerprints), expert_set=expert_set)
        if known != event:
            self._append(trial_id, event)

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a trial or, without one, of the study; steps that were written before are skipped."""
        if new := self.unwritten(trial_id, metrics, step):
            self._append(trial_id, _Metrics(step=step, metrics=new))

    def log_picture(self, trial_id: str, file: Path, step: int) -> None:
        """Write nothing: the picture is a file of the study's folder already."""

    def sampling_machine(self) -> AbstractContextManager[object]:
        """Record nothing: only MLflow's pages show the use of the machine."""
        return nullcontext()

    def unwritten(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """The metrics whose last written step is before this one."""
        last = self._written(trial_id).last_steps
        return {key: float(value) for key, value in metrics.items() if step > last.get(key, -1)}

    def last_value(self, trial_id: str | None, metric: str) -> float | None:
        """The value of a metric that was written last, if any."""
        return self._written(trial_id).last_values.get(metric)

    def next_step(self, trial_id: str | None, metric: str) -> int:
        """The step after the last one of a metric, for a figure of the whole study."""
        return self._written(trial_id).next_step(metric)

    def num_ends(self, trial_id: str | None) -> int:
        """Number of sessions in which a trial or the study has ended."""
        return self._written(trial_id).num_ends

    def has_trial_end(self, trial_id: str, state: State, tags: Mapping[str, str]) -> bool:
        """Whether a trial's end is its last event; a resumed study sends it again."""
        return self._written(trial_id).end == _TrialEnd(state=state, tags=dict(tags))

    def has_study_end(self, state: State, metrics: Mapping[str, float]) -> bool:
        """Whether the study's end is its last event, as of a finished command that is repeated."""
        return self._written(None).end == _StudyEnd(state=state, metrics=dict(metrics))

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Write the state of an ended trial and copy its artifacts."""
        self._open_trials.discard(trial_id)
        self._keep(artifacts, trial_id)
        if not self.has_trial_end(trial_id, state, tags):
            self._append(trial_id, _TrialEnd(state=state, tags=dict(tags)))

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Write the state of the study and its metrics; open trials end as interrupted."""
        for trial_id in sorted(self._open_trials):
            self.end_trial(trial_id, "interrupted", None, {})
        self._keep(artifacts, "study")
        if not self.has_study_end(state, metrics):
            self._append(None, _StudyEnd(state=state, metrics=dict(metrics)))

    def log_scores(self, scores: Scores) -> None:
        """Append an evaluation to ``evaluations.jsonl``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = asdict(scores) | {"study": scores.study.model_dump(mode="json")}
        append_line(self.folder / "evaluations.jsonl", json.dumps({"event": "scores", **values}, ensure_ascii=False))

    def _file(self, trial_id: str | None) -> Path:
        return self.folder / "study.jsonl" if trial_id is None else self.folder / "trials" / f"{trial_id}.jsonl"

    def _open(self, trial_id: str | None) -> bool:
        """Prepare a file for appending, and return whether it has events; an incomplete last line is removed."""
        file = self._file(trial_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        with file.open("ab") as opened:
            opened.truncate(len(whole))
        written = self._files[file] = _Written()
        for line in whole.split(b"\n")[:-1]:
            with suppress(ValidationError):  # a damaged line, which is left as it is
                written.add(_EVENTS.validate_json(line))
        return bool(whole)

    def _written(self, trial_id: str | None) -> _Written:
        return self._files.setdefault(self._file(trial_id), _Written())

    def _append(self, trial_id: str | None, event: _Event) -> None:
        append_line(self._file(trial_id), json.dumps(event.as_json(), ensure_ascii=False))
        self._written(trial_id).add(event)

    def _keep(self, artifacts: Path | None, name: str) -> None:
        if artifacts is not None:
            shutil.copytree(artifacts, self.folder / "artifacts" / name, dirs_exist_ok=True)


if TYPE_CHECKING:
    _tracker: Tracker = FolderTracker("")
