"""The result of a finished study, found before anything that only a search needs is imported.

This module imports neither torch nor Ray nor a tracker, which take seconds.
"""

from contextlib import nullcontext
from dataclasses import dataclass

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.study_store import StudyStore
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.trial import Trial


@dataclass(frozen=True)
class SweepResult:
    """The result of a study."""

    outcome: StudyOutcome
    """Object printed by ``--json``."""
    trials: list[Trial]
    """All trials, by number."""
    is_new: bool
    """False if the study was finished before and only its result was read."""
    missing: tuple[str, ...] = ()
    """Writes that the tracker lacks, each with its reason; the same command sends them again."""


def finished_result(
    study: Study,
    folder: StudyFolder,
    display: ProgressDisplay,
    *,
    study_store: StudyStore | None = None,
    reopens: bool = False,
) -> SweepResult | None:
    """The result of a finished study that a sweep would only read; None if a sweep has anything to do.

    Args:
        study: The study.
        folder: Its folder.
        display: Shows the wait for the study's store.
        study_store: Persistent storage of the study, as for a sweep.
        reopens: Whether a finished study continues if it has more trials or time than before.

    Raises:
        ConfigError: if the folder contains a study of this name with other settings.
        RayvlddError: if another process or machine runs the study.
        StoreError: if the result or the study's store cannot be read.
    """
    if not folder.result_file.is_file() or folder.has_unsent or (reopens and folder.has_more(study)):
        return None
    with study_store.held(display) if study_store else nullcontext(), folder.opened(study, reopens=reopens):
        outcome = folder.result()
        if outcome is None or folder.has_unsent:  # another machine has gone on with it
            return None
        return SweepResult(outcome, folder.ledger().by_number(), is_new=False)


def line_of_finished(study: Study, folder: StudyFolder, reopens: bool) -> str:
    """The line that says where the result of a finished study is from."""
    nothing = ", and has no trial or time left to continue with" if reopens else ""
    return f"study {study.name} is finished{nothing}; this is its result from {folder.result_file}"
