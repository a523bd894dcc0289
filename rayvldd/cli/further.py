"""Options of further evaluations of the students of ``rayvldd evaluate``, and their tables."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from rayvldd.cli.invocation import F, Invocation
from rayvldd.errors import ConfigError, DataError, InputError, next_after
from rayvldd.library.further import TEMPLATE, FurtherEvaluations, errors_of_further
from rayvldd.records.set_scores import ALL_PAIRS
from rayvldd.user_paths import user_path

if TYPE_CHECKING:
    from rayvldd.library.set_groups import SetGroup
    from rayvldd.records.set_scores import FurtherScores

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--robustness",
        is_flag=True,
        help="Also show recall on images with JPEG compression, 4 bits per channel or noise, and of students of each "
        "set as it is exported.",
    ),
    click.option(
        "--on",
        "on_study",
        metavar="STUDY",
        help="Also show recall on the data of this study, whose images have the same size.",
    ),
    click.option(
        "--zero-shot",
        metavar="FOLDER",
        help="Also classify the images of this folder of class folders, or of a saved Hugging Face data set, by "
        "prompts.",
    ),
    click.option(
        "--template",
        metavar="TEXT",
        default=TEMPLATE,
        show_default=True,
        help="Prompt of a class for --zero-shot.",
    ),
    click.option(
        "--privacy",
        is_flag=True,
        help="Also show how like real images those of a set are, and whether students tell its start pairs from "
        "other real pairs.",
    ),
)


def further_options(command: F) -> F:
    """Add the options of further evaluations to a command, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_further(
    robustness: bool, on_study: str | None, zero_shot: str | None, template: str, privacy: bool
) -> tuple[FurtherEvaluations, list[InputError]]:
    """Read the inputs of further evaluations; also return the errors of what cannot be read."""
    from rayvldd.config.loading import load_study

    errors: list[InputError] = []
    other = images = None
    try:
        other = load_study(on_study) if on_study is not None else None
    except ConfigError as error:
        errors.append(error.below("--on "))
    if zero_shot is not None:
        from rayvldd.data.class_images import read_class_images

        try:
            images = read_class_images(user_path(zero_shot))
        except DataError as error:
            errors.append(error.below("--zero-shot "))
    return FurtherEvaluations(robustness, other, images, template, privacy), errors


def refuse_further(further: FurtherEvaluations, groups: "Sequence[SetGroup]", next_command: str) -> None:
    """Raise an error if evaluations do not fit the sets.

    Raises:
        InputError: listing all faults.
    """
    studies = {name: group.study for group in groups for name in group.sets}
    errors = [error.below("--") for error in errors_of_further(further, studies)]
    if errors:
        faults = [fault for error in errors for fault in error.faults]
        raise InputError(faults, next_command=next_after(errors, next_command))


def show_further(invocation: Invocation, scores: "Sequence[FurtherScores]") -> None:
    """Print the tables of further evaluations."""
    from rayvldd.reports.tables import further_table

    for found in scores:
        invocation.show(further_table(found, full_data=ALL_PAIRS))
        for note in found.notes:
            invocation.say(note)
