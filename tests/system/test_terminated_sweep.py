"""A whole sweep in a terminal that SIGTERM ends while a trial is at work, as a batch system does."""

import fcntl
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from helpers.paths import ROOT
from helpers.studies import ONE_RATE_OF_TWO, TINY_STUDY

from rayvldd.workspace import Workspace

_WIDTH = 80
_QUIET_S = 3.0
"""Seconds on an idle machine after which a terminal must have heard something."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    """A process with a terminal of its own, and what it wrote there."""

    process: psutil.Process
    place: int
    """File descriptor of the terminal's other end."""
    text: str = ""
    silences: list[tuple[float, str]] = field(default_factory=list)
    """Seconds of CPU, of the process and its descendants, without a word; and what was written last before."""
    _cpu_s: dict[int, float] = field(default_factory=dict)
    _heard_s: float = 0.0

    def listen(self) -> bool:
        """Take what was written within a moment; return False at the end."""
        ready, _, _ = select.select([self.place], [], [], 0.1)
        if not ready:
            self._spent()
            return True
        with suppress(OSError):  # Linux's end of a terminal
            if written := os.read(self.place, 65536):
                spent = self._spent()
                self.silences.append((spent - self._heard_s, _ESCAPES.sub("", self.text)[-80:].strip()))
                self._heard_s, self.text = spent, self.text + written.decode(errors="replace")
                return True
        return False

    def _spent(self) -> float:
        """Seconds of CPU so far; those of processes that have ended count as last seen."""
        with suppress(psutil.Error):
            for one in (self.process, *self.process.children(recursive=True)):
                with suppress(psutil.Error):
                    times = one.cpu_times()
                    self._cpu_s[one.pid] = times.user + times.system
        return sum(self._cpu_s.values())


@dataclass(frozen=True)
class Ended:
    """A sweep that was ended by SIGTERM."""

    file: Path
    workspace: Path
    exit_code: int
    terminal: Terminal

    @property
    def lines(self) -> list[str]:
        """What was written, by line without escapes, with each state of the bar."""
        return re.split(r"[\r\n]+", _ESCAPES.sub("", self.terminal.text))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("terminated")
    file, workspace = folder / "tiny.yaml", folder / "workspace"
    steps = {"outer_steps": 100_000, "evaluate_every": 2}  # it would take hours
    study = {**TINY_STUDY, "search": ONE_RATE_OF_TWO, "distillation": {**TINY_STUDY["distillation"], **steps}}
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    pid, place = pty.fork()
    if not pid:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        words = [sys.executable, "-m", "rayvldd", "sweep", str(file), "--workspace", str(workspace)]
        os.execve(sys.executable, words, environment)
    fcntl.ioctl(place, termios.TIOCSWINSZ, struct.pack("HHHH", 24, _WIDTH, 0, 0))
    terminal, is_sent = Terminal(psutil.Process(pid), place), False
    try:
        while terminal.listen():
            rows = workspace.glob("studies/tiny/trials/*/evaluations.jsonl")
            if not is_sent and any(one.read_text(encoding="utf-8").count("\n") >= 2 for one in rows):
                is_sent = True
                os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    finally:
        with suppress(psutil.NoSuchProcess):
            terminal.process.kill()
        os.close(place)
    assert is_sent, _ESCAPES.sub("", terminal.text)[-600:]
    yield Ended(file, workspace, os.waitstatus_to_exitcode(status), terminal)


@pytest.mark.timeout(900)  # a Ray of its own, on a machine that may be busy
def test_sigterm_ends_a_sweep_with_its_work_kept(ended: Ended) -> None:
    assert ended.exit_code == 128 + signal.SIGTERM
    assert "Traceback" not in ended.terminal.text
    place = next(place for place, line in enumerate(ended.lines) if line.startswith("Interrupted. Kept: "))
    assert " ".join(map(str.strip, ended.lines[place : place + 2])) == (
        "Interrupted. Kept: experts and trials that were finished, and every other trial up to its last evaluation."
    )
    last = " ".join(map(str.strip, filter(None, ended.lines[place + 2 :])))
    assert last == f"The same command continues: rayvldd sweep {ended.file} --workspace {ended.workspace}"


def test_mlflow_is_told(ended: Ended) -> None:
    with closing(sqlite3.connect(Workspace(ended.workspace).root / "mlflow.db")) as connection:
        runs = dict(connection.execute("SELECT name, status FROM runs"))
        states = connection.execute("SELECT value FROM tags WHERE key = 'rayvldd.state'").fetchall()
    assert runs == {"tiny": "KILLED", "tiny/000": "KILLED"}
    assert states == [("interrupted",)] * 2


def test_no_long_work_passes_without_a_word(ended: Ended) -> None:
    """Measured in seconds of CPU, which a busy machine does not add to: at most all cores worked all the time."""
    longest, before = max(ended.terminal.silences)
    assert longest / len(os.sched_getaffinity(0)) < _QUIET_S, f"{longest:.1f} s of CPU after: {before}"


def test_only_commands_are_wider_than_the_terminal(ended: Ended) -> None:
    wide = [line for line in ended.lines if len(line) > _WIDTH]
    paths = [line for line in wide if len(line.split()) == 1]  # of a long folder for temporary files; never broken
    assert [line for line in wide if not line.strip().startswith("rayvldd ") and line not in paths] == []
