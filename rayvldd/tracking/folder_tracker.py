"""Tracker that writes plain files with one line of JSON per event; they need no server or library."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.storage.atomic import append_line
from rayvldd.storage.json_files import write_json_whole
from rayvldd.tracking.protocol import Origins, Scores, State, Tracker


class FolderTracker:
    """Writes below one folder: ``study.json``, ``study.jsonl``, ``trials/<trial>.jsonl`` and ``artifacts/``.

    The first line of a trial is its point, the last one its state and tags, the others are metrics with a step.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.uri = self.folder.as_uri()
        self._open_trials: set[str] = set()
        self._last_steps: dict[Path, dict[str, int]] = {}
        """File -> metric -> last step written."""
        self._last_values: dict[Path, dict[str, float]] = {}
        """File -> metric -> last value written."""
        self.translating_errors: dict[Path, list[dict[str, Any]]] = {}
        """File -> its origins and ends, so that nothing is written twice when a study is resumed."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Empty, because failed writes raise an error."""
        return ()

    def start_study(self, study: Study, command: str) -> None:
        """Write the study's settings, or continue the files of an earlier call."""
        try:
            self._open(self._file(None))
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
        file = self._file(trial_id)
        if not self._open(file):
            _append(file, {"event": "start", "trial_id": trial_id, "point": dict(point)})

    def log_origins(self, trial_id: str | None, origins: Origins) -> None:
        """Write the origins of a trial or of the study."""
        self._write_once(self._file(trial_id), {"event": "origins", **asdict(origins)})

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics of a trial or, without one, of the study; steps that were written before are skipped."""
        file, new = self._file(trial_id), self.unwritten(trial_id, metrics, step)
        if new:
            _append(file, {"event": "metrics", "step": step, "metrics": new})
            self._last_steps[file].update(dict.fromkeys(new, step))
            self._last_values[file].update(new)

    def unwritten(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """The metrics whose last written step is before this one."""
        last = self._last_steps[self._file(trial_id)]
        return {key: float(value) for key, value in metrics.items() if step > last.get(key, -1)}

    def last_value(self, trial_id: str | None, metric: str) -> float | None:
        """The value of a metric that was written last, if any."""
        return self._last_values.get(self._file(trial_id), {}).get(metric)

    def end_trial(self, trial_id: str, state: State, artifacts: Path | None, tags: Mapping[str, str]) -> None:
        """Write the state of an ended trial and copy its artifacts."""
        self._open_trials.discard(trial_id)
        self._keep(artifacts, trial_id)
        self._write_once(self._file(trial_id), {"event": "end", "state": state, "tags": dict(tags)})

    def end_study(self, state: State, metrics: Mapping[str, float], artifacts: Path | None) -> None:
        """Write the state of the study and its metrics; open trials end as interrupted."""
        for trial_id in sorted(self._open_trials):
            self.end_trial(trial_id, "interrupted", None, {})
        self._keep(artifacts, "study")
        _append(self._file(None), {"event": "end", "state": state, "metrics": dict(metrics)})

    def log_scores(self, scores: Scores) -> None:
        """Append an evaluation to ``evaluations.jsonl``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = asdict(scores) | {"study": scores.study.model_dump(mode="json")}
        _append(self.folder / "evaluations.jsonl", {"event": "scores", **values})

    def _file(self, trial_id: str | None) -> Path:
        return self.folder / "study.jsonl" if trial_id is None else self.folder / "trials" / f"{trial_id}.jsonl"

    def _open(self, file: Path) -> list[dict[str, Any]]:
        """Prepare a file for appending, and return its events; an incomplete last line is removed."""
        file.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        with file.open("a", encoding="utf-8") as opened:
            opened.truncate(len(whole.encode()))
        events = [json.loads(line) for line in whole.split("\n")[:-1]]
        metrics = [event for event in events if event["event"] == "metrics"]
        self.translating_errors[file] = [event for event in events if event["event"] in ("origins", "end")]
        self._last_steps[file] = {key: event["step"] for event in metrics for key in event["metrics"]}
        self._last_values[file] = {key: value for event in metrics for key, value in event["metrics"].items()}
        return events

    def _write_once(self, file: Path, event: dict[str, Any]) -> None:
        """Append an event, unless it equals the last event of its kind in the file."""
        events = self.translating_errors.setdefault(file, [])
        same_kind = [earlier for earlier in events if earlier["event"] == event["event"]]
        if not same_kind or same_kind[-1] != event:
            events.append(event)
            _append(file, event)

    def _keep(self, artifacts: Path | None, name: str) -> None:
        if artifacts is not None:
            shutil.copytree(artifacts, self.folder / "artifacts" / name, dirs_exist_ok=True)


def _append(file: Path, event: dict[str, Any]) -> None:
    append_line(file, json.dumps(event, ensure_ascii=False))


if TYPE_CHECKING:
    _tracker: Tracker = FolderTracker("")
