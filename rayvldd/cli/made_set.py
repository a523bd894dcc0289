"""The last lines of a command that has made a distilled set: its pictures, its page, and its way to other programs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.cli.invocation import Invocation

if TYPE_CHECKING:
    from rayvldd.records.gain import RatesToTry

_PICTURES = ("before_after.jpg", "recall_by_outer_step.png")


def say_made_set(invocation: Invocation, place: Path) -> None:
    """Name a distilled set, and the pictures that are in its folder."""
    invocation.say(f"distilled set  {place}")
    if pictures := [name for name in _PICTURES if (place / name).is_file()]:
        invocation.say(f"pictures       {' and '.join(pictures)} in its folder")


def say_ways_on(invocation: Invocation, place: Path, name: str, *studies: str, condition: str = "") -> None:
    """Name the command that writes the page, and the one that exports the set.

    Args:
        invocation: The command.
        place: Folder of the set.
        name: Name of the set, for the folder of its export.
        studies: Studies of the page; default: all of the workspace.
        condition: When the set is on the page, e.g. ``once it is scored on test``; default: it is.
    """
    page = invocation.in_this_workspace(shlex.join(["rayvldd", "compare", *studies]))
    file = invocation.workspace_folder / "comparison" / "compare.html"
    invocation.say(f"page           {page}, which writes {file}" + (f", {condition}" if condition else ""))
    invocation.say(f"other programs {shlex.join(['rayvldd', 'export', str(place), f'{name}_pairs'])}")


def say_without_gain(invocation: Invocation, warning: str, rates: "RatesToTry | None") -> None:
    """Warn that a set is its starting pairs, with the commands that distil at other rates."""
    from rayvldd.reports.gain import commands_to_try

    invocation.say(f"WARNING        {warning}.")
    if rates is not None and invocation.study_file is not None:
        distill = ["rayvldd", "distill", str(invocation.study_file)]
        for number, command in enumerate(commands_to_try(distill, invocation.overrides, rates)):
            label = "then           " if number else "rates to try   "
            invocation.say(label + invocation.in_this_workspace(command))
