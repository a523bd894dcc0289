"""What is known of a study's trials, on disk from the moment it is known.

One folder a trial: ``trial.json`` (point, seed, how it ended), ``evaluations.jsonl`` (one line an evaluation, in
order) and, while it runs, ``checkpoint/``, which the distillation writes and continues from. Only the driver writes
the ledger. A study continues from this ledger alone and needs nothing of what Ray Tune saves: Tune's snapshot of an
experiment is up to ten seconds behind its trials, and a trial whose checkpoint is newer starts from nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rayvldd.config.domains import Scalar
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.errors import StoreError
from rayvldd.storage.atomic import write_text_whole
from rayvldd.storage.json_files import write_json_whole

Ended = Literal["finished", "stopped", "failed"]
"""``stopped``: ended early by the scheduler or the time budget; ``failed``: diverged or lost. All three are final."""

TrialState = Literal["running"] | Ended

METRIC = BEST_VAL_MEAN_RECALL
"""What the search maximises: the highest validation recall of the trial so far."""


OUTER_STEP = "outer_step"
"""The time by which trials are compared."""


@dataclass
class Trial:
    """One point, and how far its distillation came."""

    trial_id: str
    number: int
    seed: int
    """Decides every draw of the distillation."""
    point: dict[str, Scalar]
    """The searched settings by dotted key."""
    folder: Path
    state: TrialState = "running"
    reason: str = ""
    """Why it failed, for people."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """``outer_step``, the evaluation's metrics and ``search_seconds``, one an evaluation."""

    @property
    def checkpoint(self) -> Path:
        """What the distillation saves and continues from."""
        return self.folder / "checkpoint"

    @property
    def artifacts(self) -> Path:
        """What is kept of a trial that ended, and handed to the tracker."""
        return self.folder / "artifacts"

    @property
    def distilled_set(self) -> Path:
        """The best set of a trial that ended."""
        return self.artifacts / "distilled_set"

    @property
    def best(self) -> dict[str, float] | None:
        """The evaluation with the highest validation recall, the earliest if several are equal."""
        return max(self.evaluations, key=lambda row: row[VAL_MEAN_RECALL], default=None)

    @property
    def outer_step(self) -> int:
        """The last outer step that was evaluated, -1 before the first."""
        return int(self.evaluations[-1]["outer_step"]) if self.evaluations else -1


class Ledger:
    """The trials of one study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials: dict[str, Trial] = {}
        for file in sorted(folder.glob("*/trial.json")):
            trial = _read_trial(file)
            self.trials[trial.trial_id] = trial

    @property
    def ended(self) -> list[Trial]:
        """Trials that will not run again, by number."""
        return [trial for trial in self._by_number() if trial.state != "running"]

    @property
    def running(self) -> list[Trial]:
        """Trials that have begun and not ended; where no sweep runs, these were cut off."""
        return [trial for trial in self._by_number() if trial.state == "running"]

    @property
    def next_number(self) -> int:
        """The number of the next new trial."""
        return 1 + max((trial.number for trial in self.trials.values()), default=-1)

    @property
    def search_seconds(self) -> float:
        """How long the search had lasted, all its sessions together, when the last evaluation came in."""
        rows = [row for trial in self.trials.values() for row in trial.evaluations]
        return max((row["search_seconds"] for row in rows), default=0.0)

    def best_trial(self) -> Trial | None:
        """The ended trial with the highest validation recall; failed ones do not count, the earlier wins a tie."""
        candidates = [trial for trial in self.ended if trial.state != "failed" and trial.best]
        return max(candidates, key=lambda trial: trial.best[VAL_MEAN_RECALL], default=None)  # type: ignore[index]

    def states(self) -> dict[str, int]:
        """Number of trials by state."""
        counts = dict.fromkeys(("finished", "stopped", "failed"), 0)
        for trial in self.trials.values():
            counts[trial.state] = counts.get(trial.state, 0) + 1
        return counts

    def start(self, number: int, seed: int, point: Mapping[str, Scalar]) -> Trial:
        """Enter a trial, or find the one with this number again."""
        trial_id = trial_id_of(number)
        if trial_id not in self.trials:
            trial = Trial(trial_id, number, seed, dict(point), self.folder / trial_id)
            self.trials[trial_id] = trial
            _write_trial(trial)
        return self.trials[trial_id]

    def add_evaluation(self, trial_id: str, row: Mapping[str, float]) -> bool:
        """Append an evaluation; one of an outer step that is known already is left out, and False returned."""
        trial = self.trials[trial_id]
        if row["outer_step"] <= trial.outer_step:
            return False
        trial.evaluations.append(dict(row))
        with (trial.folder / "evaluations.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return True

    def end(self, trial_id: str, state: Ended, reason: str = "") -> None:
        """Enter how a trial ended."""
        trial = self.trials[trial_id]
        trial.state, trial.reason = state, reason
        _write_trial(trial)

    def _by_number(self) -> list[Trial]:
        return sorted(self.trials.values(), key=lambda trial: trial.number)


def read_trials(folder: Path) -> tuple[list[Trial], list[str]]:
    """Read the trials below ``folder`` for show, by number, and what cannot be read of them.

    Unlike :class:`Ledger` it mends nothing and leaves a damaged trial out: another process may be writing here.
    """
    trials, faults = [], []
    for file in sorted(folder.glob("*/trial.json")):
        try:
            trial = _read_trial(file, mend=False)
            if not isinstance(trial.number, int):
                raise TypeError(f"its number is {trial.number!r}")
            trials.append(trial)
        except (StoreError, ValueError, TypeError, KeyError, OSError) as error:
            faults.append(f"{file.parent.name}: {str(error).partition(chr(10))[0]}")
    return sorted(trials, key=lambda trial: trial.number), faults


def trial_id_of(number: int) -> str:
    """The name of a trial: its folder here, its run in the tracker."""
    return f"trial_{number:03d}"


def _write_trial(trial: Trial) -> None:
    values: dict[str, Any] = {name: getattr(trial, name) for name in _KEPT}
    write_json_whole(trial.folder / "trial.json", values)


def _read_trial(file: Path, *, mend: bool = True) -> Trial:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        known = {name: values[name] for name in _KEPT}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file}: not readable as the record of a trial ({error})",
            next_command=f"move {file.parent} away and repeat the command: the trial is drawn anew",
        ) from None
    rows = _read_evaluations(file.with_name("evaluations.jsonl"), mend=mend)
    return Trial(folder=file.parent, evaluations=rows, **known)


def _read_evaluations(file: Path, *, mend: bool) -> list[dict[str, float]]:
    """Read the lines without a last one that was cut off in the middle; to mend drops that from the file too."""
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8")
    whole, _, cut_off = text.rpartition("\n")
    if cut_off and mend:
        write_text_whole(file, f"{whole}\n" if whole else "")
    return [json.loads(line) for line in whole.splitlines()]


_KEPT = ("trial_id", "number", "seed", "point", "state", "reason")
