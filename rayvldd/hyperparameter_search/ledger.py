"""The trials of a study, recorded on disk as they happen.

There is one folder for each trial, see ``records/trial.py``. Only the driver writes the ledger. A study is resumed
from the ledger and not from the files of Ray Tune: Tune's snapshot of an experiment is up to ten seconds older than
its trials, and a trial with a newer checkpoint would start from scratch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rayvldd.config.domains import SettingValue
from rayvldd.errors import StoreError, without_next_command
from rayvldd.records.trial import RECORD, Ended, Evaluation, Prediction, Trial, best_of, trial_id_of


class Ledger:
    """The trials of one study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials: dict[str, Trial] = {}
        for file in sorted(folder.glob(f"*/{RECORD}")):
            trial = Trial.read(file.parent, repair=True)
            self.trials[trial.trial_id] = trial

    @property
    def ended(self) -> list[Trial]:
        """Ended trials, by number."""
        return [trial for trial in self.by_number() if trial.state != "running"]

    @property
    def running(self) -> list[Trial]:
        """Trials that have started and not ended; if no search is running, they were interrupted."""
        return [trial for trial in self.by_number() if trial.state == "running"]

    @property
    def search_seconds(self) -> float:
        """Duration of the search at its last evaluation, over all sessions, in seconds."""
        return search_seconds_of(self.trials.values())

    def best_trial(self) -> Trial | None:
        """The ended trial with the highest validation recall, without failed ones; the earlier trial in a tie."""
        return best_of(self.ended)

    def states(self) -> dict[str, int]:
        """Number of trials by state."""
        counts = dict.fromkeys(("finished", "stopped", "failed"), 0)
        for trial in self.trials.values():
            counts[trial.state] = counts.get(trial.state, 0) + 1
        return counts

    def start(
        self,
        number: int,
        seed: int,
        point: Mapping[str, SettingValue],
        is_requested: bool = False,
        prediction: Prediction | None = None,
    ) -> Trial:
        """Add a trial, or return the existing trial with this number."""
        trial_id = trial_id_of(number)
        if trial_id not in self.trials:
            folder = self.folder / trial_id
            trial = Trial(trial_id, number, seed, dict(point), folder, is_requested=is_requested, prediction=prediction)
            self.trials[trial_id] = trial
            trial.write()
        return self.trials[trial_id]

    def add_evaluation(self, trial_id: str, evaluation: Evaluation) -> bool:
        """Append an evaluation; return False, without adding it, if its outer step is already recorded."""
        return self.trials[trial_id].add(evaluation)

    def end(self, trial_id: str, state: Ended, reason: str = "", *, process_died: bool = False) -> None:
        """Record the end of a trial."""
        trial = self.trials[trial_id]
        trial.state, trial.reason, trial.process_died = state, reason, process_died
        trial.write()

    def by_number(self) -> list[Trial]:
        """All trials, by number."""
        return sorted(self.trials.values(), key=lambda trial: trial.number)


def search_seconds_of(trials: Iterable[Trial]) -> float:
    """Duration of a search at the last evaluation of its trials, over all sessions, in seconds."""
    found = (evaluation for trial in trials for evaluation in trial.evaluations)
    return max((evaluation.search_seconds for evaluation in found), default=0.0)


def read_trials(folder: Path) -> tuple[list[Trial], list[str]]:
    """Read the trials below ``folder`` for display, by number, and the errors of unreadable trials.

    Unlike :class:`Ledger` it repairs nothing and omits damaged trials, because another process may be writing them.
    """
    trials, faults = [], []
    for file in sorted(folder.glob(f"*/{RECORD}")):
        try:
            trials.append(Trial.read(file.parent))
        except StoreError as error:
            faults.append(f"{file.parent.name}: {without_next_command(error)}")
    return sorted(trials, key=lambda trial: trial.number), faults
