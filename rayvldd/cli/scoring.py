"""Options that ``evaluate`` and ``coreset`` share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from rayvldd.cli.invocation import Invocation
from rayvldd.errors import ConfigError, Fault, InputError, did_you_mean

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--students",
        type=click.IntRange(min=1),
        metavar="N",
        help="Students a set. Default: evaluation.num_test_students.",
    ),
    click.option(
        "--split",
        type=click.Choice(["val", "test"]),
        default="val",
        show_default=True,
        help="What students are scored on: val for choosing, test once for what was chosen.",
    ),
    click.option(
        "--full-data/--no-full-data",
        default=True,
        show_default=True,
        help="Train up to three models on all pairs too: the bound that shares are of. Each costs what an expert does.",
    ),
    click.option(
        "--reference", is_flag=True, help="Also print the paper's tables for Flickr30K and COCO, apart from ours."
    ),
)


def scoring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--students``, ``--split``, ``--full-data`` and ``--reference``, in this order in its help."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def show_split(invocation: Invocation, split: str) -> None:
    """After scores on validation, print what they are for and how to get those of the test split."""
    if split == "val":
        invocation.say("scored on validation, for choosing. `rayvldd compare` shows scores on test: --split test")


def show_published(invocation: Invocation) -> list[dict[str, Any]]:
    """Print the recalls in print in a table of their own, and return its rows."""
    from rayvldd.reports.published import published_rows, published_table

    rows = published_rows()
    invocation.show(published_table(rows))
    return rows


@contextmanager
def together_with(faults: Sequence[Fault], next_command: str) -> Iterator[None]:
    """Raise the given faults after the block, or with those that the block raises.

    Raises:
        InputError: with all faults.
    """
    try:
        yield
    except InputError as error:
        if not faults:
            raise
        raise InputError([*faults, *error.faults], next_command=error.next_command) from None
    if faults:
        raise ConfigError(faults, next_command=next_command)


def words(text: str) -> list[str]:
    """The words between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def read_methods(text: str, option: str) -> tuple[list[str], list[Fault]]:
    """Coreset methods with commas, or ``all``; and a fault for every word that is none."""
    from rayvldd.coresets.selection import METHODS

    methods = list(METHODS) if text.strip() == "all" else words(text)
    allowed = f"{', '.join(METHODS)}, all"
    faults = [
        Fault(option, f"no coreset method {name!r}{did_you_mean(name, METHODS)}", allowed)
        for name in methods
        if name not in METHODS
    ]
    return methods, faults if methods else [Fault(option, f"no method in {text!r}", allowed)]
