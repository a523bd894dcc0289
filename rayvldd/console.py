"""Progress output on the terminal: one bar, and one line for each finished item."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from rayvldd.errors import message_of
from rayvldd.printable import fitted, printable

_PLAIN_EVERY_S = 15.0
"""Minimum seconds between two lines of progress if the output is not a terminal."""
_SAME_EVERY_S = 300.0
"""The same for a line that says nothing new: a log shows that the command runs, but not what it has shown already."""


class ProgressDisplay:
    """A progress bar at the bottom of a terminal, with lines above it; plain lines if the output is not a terminal.

    Args:
        console: Where it is shown; default: standard error.
        quiet: Show warnings only.
        log_time: Begin each line with date and time.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False, log_time: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._quiet, self._log_time = quiet, log_time
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            # The only column that is cut off on a narrow terminal.
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            expand=True,
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._what = self._phase = ""
        self._phases_follow = False
        self._last_plain = 0.0
        self._last_words = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        """Print a permanent line, unless the display is quiet."""
        if not self._quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """Print a permanent line about something that is not as it should be, in a quiet display too."""
        self._print(text)

    @contextmanager
    def drawing(self, what: str) -> Iterator[None]:
        """Warn of an error in a block that draws pictures of something, which is kept without them."""
        try:
            yield
        except Exception as error:  # of images, captions, fonts or the disk
            self.warn(f"{what}: no pictures of it: {message_of(error)}")

    def begin_phase(self, number: int, total: int) -> None:
        """Begin a phase of the command, whose number stands before the activities in it.

        Args:
            number: From 1 on.
            total: Phases of the command.
        """
        self._phase, self._phases_follow = f"[{number}/{total}] ", number < total

    def end_phases(self) -> None:
        """Show the activities that follow without a phase."""
        self._phase, self._phases_follow = "", False

    def of_phase(self, words_left: str) -> str:
        """Words for the time that a phase has left, which say so if others follow; empty ones stay empty."""
        return f"{words_left} of this phase" if words_left and self._phases_follow else words_left

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show the progress of an activity; it replaces that of another activity."""
        what = self._phase + what
        if what != self._what:
            self._what, self._last_plain = what, time.monotonic()  # short activities need no line
            self._clear()
            self._task = self._progress.add_task(what, total=total, note=note)
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total, note=note)
        if not self.console.is_terminal:
            words = f"{what}: {done} of {total}" + (f", {note}" if note else "")
            waits_s = _SAME_EVERY_S if words == self._last_words else _PLAIN_EVERY_S
            if time.monotonic() - self._last_plain >= waits_s:
                self._last_plain, self._last_words = time.monotonic(), words
                self.line(words)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Show an activity without parts for the duration of the block, e.g. the start of a program."""
        self.progress(what, 0, 1)
        try:
            yield
        finally:
            self.done()

    def done(self) -> None:
        """Remove the bar."""
        self._clear()
        self._what = ""

    def _print(self, text: str) -> None:
        if self._log_time:
            text = with_time(text)
        text = printable(text)
        if self.console.is_terminal:
            text = fitted(text, self.console.width)
        self.console.print(text, markup=False, soft_wrap=True)

    def _clear(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._progress.refresh()  # otherwise the next line is followed by the removed bar, until the next refresh
            self._task = None


@contextmanager
def shown(display: ProgressDisplay | None) -> Iterator[ProgressDisplay]:
    """The given display, which its owner has opened, or a new one for the duration of the block."""
    if display is not None:
        yield display
        return
    with ProgressDisplay() as own:
        yield own


def with_time(text: str) -> str:
    """Put the local date and time before each line of a text."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return "\n".join(f"{now}  {line}".rstrip() for line in text.split("\n"))


def time_as_text(seconds: float) -> str:
    """Format a duration: 40 s, 12 min, 1 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
