"""Common parts of the commands for one trial of a study: the option for its number, and its record."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from rayvldd.cli.invocation import F, Invocation
from rayvldd.errors import StoreError

if TYPE_CHECKING:
    from rayvldd.hyperparameter_search.study_folder import StudyFolder
    from rayvldd.records.trial import Trial


def trial_option(help_text: str) -> Callable[[F], F]:
    """The option ``--trial``."""
    return click.option("--trial", type=click.IntRange(min=0), metavar="N", help=help_text)


def trial_of(invocation: Invocation, study_name: str, number: int) -> "tuple[StudyFolder, Trial]":
    """The folder of a study and one of its trials.

    Raises:
        StoreError: if there is no such study or trial, or its record cannot be read.
    """
    from rayvldd.hyperparameter_search.ledger import read_trials
    from rayvldd.hyperparameter_search.study_folder import named_study
    from rayvldd.workspace import Workspace

    folder = named_study(Workspace(invocation.workspace_folder), study_name)
    trials, faults = read_trials(folder.trials)
    for trial in trials:
        if trial.number == number:
            return folder, trial
    numbers = f"0 to {max(trial.number for trial in trials)}" if trials else "none so far"
    unread = f"; not readable: {'; '.join(faults)}" if faults else ""
    raise StoreError(
        f"study {folder.root.name}: no trial {number}; there are: {numbers}{unread}", next_command="rayvldd status"
    )
