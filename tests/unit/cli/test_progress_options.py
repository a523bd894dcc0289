"""``--quiet`` and ``--log-time``, before and after the name of a command."""

import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

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


def test_a_narrow_terminal_cuts_off_the_note_alone() -> None:
    out = StringIO()
    with ProgressDisplay(Console(file=out, force_terminal=True, width=72, color_system=None)) as display:
        display.progress("learning rates on random pairs", 3, 120, "a note that is longer than the rest of the line")
    bar = next(line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", out.getvalue()) if "3/120" in line)
    assert len(bar) == 72
    assert re.fullmatch(r"learning rates on random pairs .{12}   3/120 0:00:\d\d a note that.*…", bar)


def test_a_bar_that_is_done_is_not_drawn_again_below_the_next_line() -> None:
    out = StringIO()
    with ProgressDisplay(Console(file=out, force_terminal=True, width=72, color_system=None)) as display:
        display.progress("finalists", 2, 3, "trial_001_again_2 step 4")
        display.done()
        display.line("trial_001  again")
        display.progress("test", 0, 3)
    before, _, after = out.getvalue().partition("trial_001  again")
    assert "finalists" in before and "finalists" not in after and "test" in after


def test_what_takes_long_is_shown_while_it_happens_and_removed_if_it_fails() -> None:
    out = StringIO()
    with ProgressDisplay(Console(file=out, force_terminal=True, width=72, color_system=None)) as display:
        with pytest.raises(ValueError, match="no answer"), display.during("opening the tracker"):
            shown = out.getvalue()
            raise ValueError("no answer")
        display.line("next")
    assert "opening the tracker" in shown
    assert "opening the tracker" not in out.getvalue().partition("next")[2]


def test_a_log_has_a_line_of_progress_once_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    out, seconds = StringIO(), 0.0
    monkeypatch.setattr("rayvldd.console.time", SimpleNamespace(monotonic=lambda: seconds))
    with ProgressDisplay(Console(file=out, width=72)) as display:
        for step in (0, 0, 0, 20, 20):
            for _ in range(20):
                seconds += 1
                display.progress("finalists", 0, 3, f"step {step}")
        assert out.getvalue().splitlines() == ["finalists: 0 of 3, step 0", "finalists: 0 of 3, step 20"]
        seconds += 300
        display.progress("finalists", 0, 3, "step 20")
    assert out.getvalue().splitlines()[2:] == ["finalists: 0 of 3, step 20"], "a sign of life"


@pytest.mark.parametrize(("quiet", "is_terminal"), [(False, True), (True, True), (False, False)])
def test_a_terminal_learns_why_it_waits(quiet: bool, is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = StringIO()
    monkeypatch.setattr(errors, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stderr", errors)
    invocation = Invocation("rayvldd sweep x", (), Path("w"), False, False, False, StringIO(), quiet=quiet)
    invocation.say_loading("reading the sets")
    invocation.say_loading()
    said = "loading PyTorch, then reading the sets\n" if is_terminal and not quiet else ""
    assert errors.getvalue() == said, "once"


def test_an_empty_line_has_its_time_without_spaces() -> None:
    assert re.fullmatch(TIME.strip() + "\n" + TIME + "x", with_time("\nx"))
