"""Export of a study's trials for other programs: an Optuna journal, or CSV files."""

import csv
import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.errors import StoreError
from rayvldd.hyperparameter_search.ledger import read_trials
from rayvldd.hyperparameter_search.optuna_trials import as_optuna_trial, directions_of, optuna_values
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.trial import EVALUATIONS, SEARCH_SECONDS, Trial, TrialState
from rayvldd.storage.new_folders import new_folder_written_whole

JOURNAL, TRIALS_TABLE, EVALUATIONS_TABLE = "journal.log", "trials.csv", "evaluations.csv"

_STATES: dict[TrialState, optuna.trial.TrialState] = {
    "finished": optuna.trial.TrialState.COMPLETE,
    "stopped": optuna.trial.TrialState.PRUNED,
    "failed": optuna.trial.TrialState.FAIL,
    "running": optuna.trial.TrialState.RUNNING,
}

Row = dict[str, SettingValue]
"""Cells by column; settings, metrics and texts."""


def export_study(folder: StudyFolder, target: Path, form: str) -> list[Path]:
    """Write the trials of a study, which may be running, to a new folder, atomically.

    Args:
        folder: The study.
        target: A folder that does not exist yet or is empty.
        form: A name in ``STUDY_FORMS``.

    Returns:
        The files.

    Raises:
        StoreError: if the study cannot be read, or the folder is not empty or cannot be written.
    """
    study, (trials, faults) = folder.saved_study(), read_trials(folder.trials)
    if faults:
        raise StoreError(f"{folder.trials}: {'; '.join(faults)}", next_command="move these trials away, then export")
    with new_folder_written_whole(target) as part:
        files = STUDY_FORMS[form](study, trials, part)
    return [target / name for name in files]


def write_journal(study: Study, trials: Sequence[Trial], folder: Path) -> list[str]:
    """Write a journal file that Optuna and its dashboard open.

    A stopped trial is one that was pruned, with the value of its best set. Lists are JSON text.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        journal = optuna.create_study(storage=storage, study_name=study.name, directions=directions_of(study))
        journal.set_metric_names(list(study.search.objectives))
    for trial in trials:
        journal.add_trial(_journal_trial(trial, study))
    return [JOURNAL]


def _journal_trial(trial: Trial, study: Study) -> optuna.trial.FrozenTrial:
    frozen = as_optuna_trial(trial, study, optuna_values(trial, study) if trial.state != "running" else None)
    frozen.state = _STATES[trial.state]
    recalls = {evaluation.outer_step: evaluation.recall for evaluation in trial.evaluations}
    frozen.intermediate_values = recalls if len(study.search.objectives) == 1 else {}
    last, file = datetime.now(), trial.folder / EVALUATIONS
    if file.is_file():
        last = datetime.fromtimestamp(file.stat().st_mtime)
    frozen.datetime_start = last - timedelta(seconds=trial.seconds or 0.0)
    frozen.datetime_complete = None if trial.state == "running" else last
    attributes = {"trial_id": trial.trial_id, "seed": trial.seed, "state": trial.state, "reason": trial.reason}
    for name, value in attributes.items():
        frozen.set_user_attr(name, value)
    return frozen


def write_tables(study: Study, trials: Sequence[Trial], folder: Path) -> list[str]:
    """Write one table with a row for each trial and one with a row for each evaluation.

    A setting that is not searched at a trial's point is empty; ``null`` is a value. Metrics of a trial are those of its
    best evaluation.
    """
    keys = list(study.space.domains)
    _write_table(folder / TRIALS_TABLE, map(_row_of, trials), [*_TRIAL_COLUMNS, *keys])
    evaluations = itertools.chain.from_iterable(map(_rows_of_evaluations, trials))
    _write_table(folder / EVALUATIONS_TABLE, evaluations, ["trial_id", "outer_step", SEARCH_SECONDS])
    return [TRIALS_TABLE, EVALUATIONS_TABLE]


_TRIAL_COLUMNS = ["trial_id", "state", "reason", "seed", "last_outer_step", "seconds", "best_outer_step"]


def _row_of(trial: Trial) -> Row:
    row: Row = {"trial_id": trial.trial_id, "state": trial.state, "reason": trial.reason, "seed": trial.seed}
    if trial.best:
        row |= {"last_outer_step": trial.outer_step, "best_outer_step": trial.best.outer_step, **trial.best.metrics}
    return row | ({} if trial.seconds is None else {"seconds": trial.seconds}) | dict(trial.point)


def _rows_of_evaluations(trial: Trial) -> Iterator[Row]:
    for one in trial.evaluations:
        row: Row = {"trial_id": trial.trial_id, "outer_step": one.outer_step, SEARCH_SECONDS: one.search_seconds}
        row.update(one.metrics)
        yield row


def _write_table(file: Path, rows: Iterable[Row], first: Sequence[str]) -> None:
    """Write a CSV file with the given columns and then those that only some rows have."""
    known = list(rows)
    columns = list(dict.fromkeys([*first, *itertools.chain.from_iterable(known)]))
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        writer.writerows([_cell(row[name]) if name in row else "" for name in columns] for row in known)


def _cell(value: SettingValue) -> str:
    """A value as text: numbers with all digits, lists and ``null`` as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


STUDY_FORMS: Mapping[str, Callable[[Study, Sequence[Trial], Path], list[str]]] = {
    "optuna": write_journal,
    "csv": write_tables,
}
"""Writers of the forms by name; each returns the names of its files."""
