"""Common options of ``evaluate`` and ``coreset``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rayvldd.cli.invocation import F, Invocation
from rayvldd.errors import ConfigError, Fault, InputError, did_you_mean

if TYPE_CHECKING:
    from rayvldd.records.coreset_rate import ChosenRate
    from rayvldd.records.full_data import ChosenRecipe
    from rayvldd.reports.published import PublishedRow

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--students",
        type=click.IntRange(min=1),
        metavar="N",
        help="Students per set. Default: evaluation.num_test_students.",
    ),
    click.option(
        "--split",
        type=click.Choice(["val", "test"]),
        default="val",
        show_default=True,
        help="Split for scoring: val for making choices, test once for the chosen set.",
    ),
    click.option(
        "--full-data/--no-full-data",
        default=True,
        show_default=True,
        help="Also train models on all pairs, for the full-data bound: one by each recipe of evaluation.full_data, and "
        "up to three by the best one on validation. They are cached; each costs about as much as an expert.",
    ),
    click.option("--reference", is_flag=True, help="Also print published tables for Flickr30K and COCO, separately."),
)


def scoring_options(command: F) -> F:
    """Add ``--students``, ``--split``, ``--full-data`` and ``--reference`` to a command, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def show_split(invocation: Invocation, split: str) -> None:
    """After scores on validation, print their purpose and the option for the test split."""
    if split == "val":
        invocation.say("scored on validation, for choosing; the page of compare has scores on test, by --split test")


def show_training(invocation: Invocation, rates: "Mapping[str, ChosenRate]", recipe: "ChosenRecipe | None") -> None:
    """Print the learning rates of students on real pairs, by row of the table, and the recipe of all pairs."""
    if rates:
        chosen = "; ".join(f"{name}: {rate.words}" for name, rate in rates.items())
        invocation.say(f"learning rates on real pairs, chosen on validation: {chosen}")
    if recipe:
        invocation.say(f"all pairs: {recipe.words}")


def show_published(invocation: Invocation) -> "list[PublishedRow]":
    """Print the published recalls as a separate table, and return its rows."""
    from rayvldd.reports.published import published_rows, published_table

    rows = published_rows()
    invocation.show(published_table(rows))
    return rows


@contextmanager
def together_with(faults: Sequence[Fault], next_command: str, errors: Sequence[InputError] = ()) -> Iterator[None]:
    """Raise the given faults and errors after the block, together with those that the block raises.

    Args:
        faults: Faults of options.
        next_command: Command that describes the options.
        errors: Errors of files that options name, with their own next commands.

    Raises:
        InputError: with all faults.
    """
    found = [*faults, *(fault for error in errors for fault in error.faults)]
    own = [error.next_command for error in errors]
    try:
        yield
    except InputError as error:
        if not found:
            raise
        raise InputError([*found, *error.faults], next_command=_lines([*own, error.next_command])) from None
    if found:
        raise ConfigError(found, next_command=_lines([*own, next_command] if faults else own))


def _lines(next_commands: Sequence[str]) -> str:
    return "\n      ".join(dict.fromkeys(next_commands))


def words(text: str) -> list[str]:
    """The distinct words of a comma-separated list."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def read_methods(text: str, option: str) -> tuple[list[str], list[Fault]]:
    """Parse a comma-separated list of coreset methods or ``all``; also return a fault for every unknown name."""
    from rayvldd.coresets.selection import METHODS

    methods = list(METHODS) if text.strip() == "all" else words(text)
    allowed = f"{', '.join(METHODS)}, all"
    faults = [
        Fault(option, f"no coreset method {name!r}{did_you_mean(name, METHODS)}", allowed)
        for name in methods
        if name not in METHODS
    ]
    return methods, faults if methods else [Fault(option, f"no method in {text!r}", allowed)]


def read_rates(text: str | None) -> tuple[tuple[float, float] | None, list[Fault]]:
    """Parse the learning rates of ``--lr-student``: image and text side; also return the fault of other words."""
    if text is None:
        return None, []
    try:
        rates = [float(word) for word in text.split(",")]
    except ValueError:
        rates = []
    if len(rates) != 2 or not all(0 < rate < float("inf") for rate in rates):
        return None, [Fault("--lr-student", f"got {text!r}", "two numbers above 0 with a comma: 0.1,0.1")]
    return (rates[0], rates[1]), []


def read_numbers(pairs_list: str | None) -> tuple[list[int], list[Fault]]:
    """Parse the numbers of pairs; empty: the study's number. Also return a fault for every invalid word."""
    given = words(pairs_list or "")
    wrong = [word for word in given if not word.isdecimal() or int(word) < 2]
    allowed = "whole numbers of at least 2, with commas: 100,200"
    faults = [Fault("--pairs", f"got {word!r}", allowed) for word in wrong]
    if pairs_list is not None and not given:
        faults.append(Fault("--pairs", f"no number in {pairs_list!r}", allowed))
    return [int(word) for word in given if word not in wrong], faults
