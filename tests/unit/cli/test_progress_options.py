"""``--quiet`` and ``--log-time``, before and after the name of a command."""

import re
from io import StringIO

import click
import pytest
from helpers.cli import run
from rich.console import Console

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.main import LazyGroup
from rayvldd.console import ProgressDisplay, with_time

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


@click.command("work", cls=RunCommand, examples=[])
@click.pass_obj
def work(invocation: Invocation) -> None:
    """Show progress, a warning, a result and a next command."""
    with invocation.display() as display:
        display.line("a trial has ended\nand another one")
        display.progress("steps", 1, 2)
        display.warn("a process died")
    invocation.say("result 57")
    invocation.say_next("rayvldd compare")


@pytest.fixture(autouse=True)
def command_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: work)
    monkeypatch.setattr("rayvldd.cli.main.COMMANDS", ("work",))


@pytest.mark.parametrize("words", [["-q", "work"], ["work", "-q"], ["--quiet", "work"], ["work", "--quiet"]])
def test_quiet_leaves_results_and_warnings(words: list[str]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (0, "result 57\n")
    assert result.stderr == "a process died\n"
    everything = run("work")
    assert "a trial has ended" in everything.stderr and "Next: rayvldd compare" in everything.stdout


@pytest.mark.parametrize("words", [["--log-time", "work"], ["work", "--log-time"]])
def test_each_line_of_progress_has_its_time(words: list[str]) -> None:
    result = run(*words)
    lines = ["a trial has ended", "and another one", "a process died"]
    assert re.fullmatch("".join(f"{TIME}{line}\n" for line in lines), result.stderr)
    assert result.stdout.startswith("result 57")
    assert not re.search(TIME, run("work").output)


def test_both_are_shown_by_help_of_the_program_and_of_commands() -> None:
    for words in (["--help"], ["work", "--help"]):
        output = run(*words).output
        assert "-q, --quiet" in output and "--log-time" in output


def test_a_quiet_display_has_no_bar_on_a_terminal() -> None:
    shown: dict[bool, str] = {}
    for quiet in (True, False):
        out = StringIO()
        with ProgressDisplay(Console(file=out, force_terminal=True, width=80), quiet=quiet) as display:
            display.progress("steps", 1, 2)
            display.done()
        shown[quiet] = out.getvalue()
    assert shown[True] == "" and "steps" in shown[False]


def test_an_empty_line_has_its_time_without_spaces() -> None:
    assert re.fullmatch(TIME.strip() + "\n" + TIME + "x", with_time("\nx"))
