"""Options of further evaluations of the students of ``rayvldd evaluate``, and their tables."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from rayvldd.cli.invocation import Invocation
from rayvldd.records.set_scores import ALL_PAIRS

if TYPE_CHECKING:
    from rayvldd.records.set_scores import FurtherScores

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--robustness",
        is_flag=True,
        help="Also show recall on images with JPEG compression, 16 grey levels or noise, and of students of each set "
        "as it is exported.",
    ),
)


def further_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of further evaluations to a command, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def show_further(invocation: Invocation, scores: "Sequence[FurtherScores]") -> None:
    """Print the tables of further evaluations."""
    from rayvldd.reports.tables import further_table

    for found in scores:
        invocation.show(further_table(found, full_data=ALL_PAIRS))
        for note in found.notes:
            invocation.say(note)
