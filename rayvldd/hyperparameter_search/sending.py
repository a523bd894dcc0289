"""The records of a finished study for a tracker: its numbers, and those sent again if the tracker lacks some."""

from collections.abc import Mapping, Sequence

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.errors import RayvlddError, without_next_command
from rayvldd.hyperparameter_search.finalists import finalists_of, log_finalist
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.recorder import Recorder, StudyRun
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.models.retrieval_task import SplitInputs
from rayvldd.records.set_card import CARD, card_in
from rayvldd.records.study_outcome import FinalistOutcome, StudyOutcome
from rayvldd.tracking.protocol import Origins, Tracker


def send_again(
    study: Study, folder: StudyFolder, tracker: Tracker, result: StudyOutcome, command: str, display: ProgressDisplay
) -> tuple[str, ...]:
    """Send the records of a finished study to a tracker that lacked some of them; return those that it still lacks.

    Nothing is sent to a tracker that has everything.

    Args:
        study: The study.
        folder: Its folder.
        tracker: The tracker; records of another one are not sent.
        result: The result of the study.
        command: The user's command line.
        display: Shows why the tracker still cannot be written to.
    """
    place = tracker.uri  # before the tracker connects
    missing = folder.unsent(place)
    if not missing:
        return ()
    display.line(f"study {study.name}: {len(missing)} records are missing in {place} and are sent again")
    try:
        tracker.start_study(study, command, was_ending=True)
        _send(study, folder, tracker, result, display)
    except RayvlddError as error:
        display.warn(without_next_command(error))
        return missing
    folder.note_unsent(place, tracker.missing)
    return tuple(tracker.missing)


def _send(study: Study, folder: StudyFolder, tracker: Tracker, result: StudyOutcome, display: ProgressDisplay) -> None:
    """Send everything that the study's folder has; the energy of the machine is not in it."""
    tracker.log_origins(None, _origins_at({}, folder.ledger(), folder))
    send_trials(study, folder, tracker, result.finalists, display)
    tracker.end_study("finished", numbers_of(result), folder.best)


def send_trials(
    study: Study,
    folder: StudyFolder,
    tracker: Tracker,
    finalists: Sequence[FinalistOutcome],
    display: ProgressDisplay,
) -> None:
    """Send the trials of a study and its finalists, which all have ended; what a tracker has is not written twice.

    Args:
        study: The study.
        folder: Its folder.
        tracker: The tracker, after the start of the study.
        finalists: The finalists, from the choice.
        display: Shows what fails.
    """
    ledger = folder.ledger()

    def origins(point: Mapping[str, SettingValue]) -> Origins:
        return _origins_at(point, ledger, folder)

    Recorder(StudyRun(study, ledger, tracker, display, None, _no_inputs, origins)).resend_ended()
    again = [ledger.trials[row.trial_id] for row in finalists if row.trial_id in ledger.trials]
    for finalist in finalists_of(study, again, folder.finalists):
        log_finalist(finalist, tracker)


def _origins_at(point: Mapping[str, SettingValue], ledger: Ledger, folder: StudyFolder) -> Origins:
    """Origins of the trial at a point, from the card of its set; without one, from the card of the best set.

    A card does not name the set of experts.
    """
    sets = (trial.distilled_set for trial in ledger.ended if trial.point == point)
    card = card_in(next((place for place in sets if (place / CARD).is_file()), folder.best))
    return Origins(card.fingerprints if card else {})


def _no_inputs(point: Mapping[str, SettingValue]) -> SplitInputs:
    raise AssertionError("pictures are drawn before a study is finished")


def numbers_of(result: StudyOutcome) -> dict[str, float]:
    """The numeric values of the result for the tracker, with descriptive names."""
    interval = dict(zip(("test_interval_low", "test_interval_high"), result.test.interval or (), strict=False))
    return {
        BEST_VAL_MEAN_RECALL: result.best.val_mean_recall,
        "test_evaluations": result.test_evaluations,
        **{f"test_{name}": value for name, value in result.test.numbers.items()},
        **interval,
        **{f"best_{name}": value for name, value in result.best.diagnostics.items()},
        **{f"seconds_{name}": value for name, value in result.seconds.items()},
        **(result.rates_to_try.numbers if result.rates_to_try else {}),
    }
