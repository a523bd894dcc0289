"""State of a study, read from its folder while it may be running, on any machine that shares the folder."""

import time
from collections import Counter

from rayvldd.config.study import Study
from rayvldd.errors import without_next_command
from rayvldd.hyperparameter_search.ledger import read_trials, search_seconds_of
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.time_left import SideBySide, seconds_left, seen_side_by_side
from rayvldd.records.study_status import RunningTrial, State, StudyStatus, unreadable
from rayvldd.records.trial import EVALUATIONS, Trial, best_of


def status_of(folder: StudyFolder) -> StudyStatus:
    """Read the state of a study; a study or trial that cannot be read is named in ``fault``.

    Nothing is raised: an unreadable study must not hide those beside it.
    """
    try:
        return _status_of(folder, folder.saved_study())
    except Exception as error:  # of the disk, of a file that has just gone, or of a plug-in's stopping rule
        return unreadable(folder.root.name, folder.root, without_next_command(error))


def _status_of(folder: StudyFolder, study: Study) -> StudyStatus:
    trials, faults = read_trials(folder.trials)
    state: State = "running" if folder.is_running() else "stopped"
    if folder.result_file.is_file():
        state = "finished"
    running = [_running(trial, study) for trial in trials if trial.state == "running"]
    best = best_of(trials)
    ended = [trial for trial in trials if trial.state != "running"]
    searches = state == "running" and not folder.choice.is_file()
    return StudyStatus(
        name=folder.root.name,
        root=folder.root,
        state=state,
        ended=len(ended),
        total=study.max_trials,
        states=dict(Counter(trial.state for trial in trials)),
        best_trial=best.trial_id if best else None,
        best_recall=best.best.recall if best and best.best else None,
        running=running,
        seconds_left=_seconds_left(study, trials, running) if searches else None,
        waiting_points=len(folder.requests.waiting_points()),
        fault="; ".join(faults),
    )


def _running(trial: Trial, study: Study) -> RunningTrial:
    file = trial.folder / EVALUATIONS
    return RunningTrial(
        trial_id=trial.trial_id,
        outer_step=trial.outer_step,
        last_step=study.last_step_at(trial.point),
        recall=trial.evaluations[-1].recall if trial.evaluations else None,
        seconds_ago=max(0.0, time.time() - file.stat().st_mtime) if trial.evaluations and file.is_file() else None,
        predicted_recall=trial.prediction.recall if trial.prediction else None,
        predicted_sd=trial.prediction.sd if trial.prediction else None,
    )


def _seconds_left(study: Study, trials: list[Trial], running: list[RunningTrial]) -> float | None:
    """The estimate of the running sweep, without the models of all pairs: their data is not read here."""
    ages = [one.seconds_ago for one in running if one.seconds_ago is not None]
    at_a_time = seen_side_by_side(trials)
    spent = search_seconds_of(trials) + min(ages, default=0.0)
    return seconds_left(study, trials, spent, SideBySide(at_a_time, at_a_time))
