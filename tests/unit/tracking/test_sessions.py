"""Notes of the processes that log runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from rayvldd.tracking import sessions
from rayvldd.tracking.sessions import STALE_S, Session, dead_sessions, forget, living_sessions

_LIVES = """
import sys, time
from pathlib import Path
from rayvldd.tracking.sessions import Session
session = Session(Path(sys.argv[1]), sys.argv[2])
session.begin("study")
print(session.token, flush=True)
time.sleep(60)
"""


def dead(folder: Path, tracking_uri: str = "") -> list[str]:
    with dead_sessions(folder, tracking_uri) as found:
        return [session.token for session in found]


def killed(folder: Path, tracking_uri: str = "") -> str:
    """The token of a process that was killed, after it was seen alive."""
    command = [sys.executable, "-c", _LIVES, str(folder), tracking_uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        assert living_sessions(folder) == 1 and not dead(folder, tracking_uri)
        process.send_signal(signal.SIGKILL)
    return token


def test_a_killed_process_is_found_until_it_is_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "open_runs"
    token = killed(folder)
    assert dead(folder) == [token] and living_sessions(folder) == 0
    assert not dead(folder, "http://other"), "another tracker may be away"
    with dead_sessions(folder, "") as found:
        assert abs(found[0].last_seen_s - time.time()) < 60
        forget(folder, found[0])
    assert not dead(folder) and not list(folder.glob("*.json"))


def test_a_process_that_ends_leaves_nothing(tmp_path: Path) -> None:
    session = Session(tmp_path, "")
    session.begin("study")
    session.begin("study")
    assert living_sessions(tmp_path) == 1 and not dead(tmp_path)
    session.end()
    session.end()
    assert not list(tmp_path.glob("*.json"))
    session.begin("study")
    assert living_sessions(tmp_path) == 1
    session.end()


def test_a_study_that_another_process_continues_is_left_to_it(tmp_path: Path) -> None:
    token = killed(tmp_path)
    session = Session(tmp_path, "")
    session.begin("study")
    assert not dead(tmp_path)
    session.end()
    session.begin("another")
    assert dead(tmp_path) == [token]
    session.end()


def test_a_process_on_another_machine_is_alive_while_its_time_is_renewed(tmp_path: Path) -> None:
    token = killed(tmp_path)
    file = tmp_path / f"{token}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "machine": "another"}))
    assert not dead(tmp_path) and living_sessions(tmp_path) == 1
    long_ago = time.time() - STALE_S - 1
    os.utime(file, (long_ago, long_ago))
    assert dead(tmp_path) == [token] and living_sessions(tmp_path) == 0


def test_the_time_is_renewed_also_after_a_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BEAT_S", 0.02)
    session = Session(tmp_path / "old", "")
    session.begin("study")
    (tmp_path / "old").rename(tmp_path / "new")
    (file,) = (tmp_path / "new").glob("*.json")
    os.utime(file, (1, 1))
    deadline = time.monotonic() + 20
    while file.stat().st_mtime < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert file.stat().st_mtime > 10
    session.end()


def test_notes_that_say_nothing(tmp_path: Path) -> None:
    """A process that was killed while it wrote its note has opened no run."""
    (tmp_path / "half.json").write_text("{")
    (tmp_path / "new.json").write_text("")
    os.utime(tmp_path / "half.json", (1, 1))
    assert not dead(tmp_path)
    assert [file.name for file in tmp_path.glob("*.json")] == ["new.json"], "it may be of another machine"


def test_a_note_of_a_newer_release_is_left_to_it(tmp_path: Path) -> None:
    """Its process may have opened runs, which only that release can end."""
    token = killed(tmp_path)
    file = tmp_path / f"{token}.json"
    text = file.read_text()
    file.write_text(json.dumps({**json.loads(text), "format": 1000}))
    os.utime(file, (1, 1))
    assert not dead(tmp_path) and file.is_file()
    file.write_text(text)
    assert dead(tmp_path) == [token]


def test_a_copy_of_a_note_ends_no_runs_at_a_shared_tracker(tmp_path: Path) -> None:
    """The process of the first note may be alive: a copy has no lock."""
    ours, copy = tmp_path / "ours", tmp_path / "copy"
    token = killed(ours, "http://server")
    shutil.copytree(ours, copy)
    assert not dead(copy, "http://server") and not list(copy.glob("*.json"))
    assert dead(ours, "http://server") == [token]
    ours.rename(tmp_path / "moved")
    assert dead(tmp_path / "moved", "http://server") == [token], "a move is no copy"


def test_a_copy_of_a_note_ends_the_runs_of_the_copied_database(tmp_path: Path) -> None:
    ours, copy = tmp_path / "ours", tmp_path / "copy"
    token = killed(ours)
    shutil.copytree(ours, copy)
    assert dead(copy) == [token]


def test_only_one_process_ends_runs_at_a_time(tmp_path: Path) -> None:
    token = killed(tmp_path)
    with FileLock(tmp_path / ".lock"):
        assert not dead(tmp_path)
    assert dead(tmp_path) == [token]


def test_living_processes_are_counted_while_no_other_process_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path)
    monkeypatch.setattr(sessions, "_WAIT_S", 0.0)
    with FileLock(tmp_path / ".lock"):
        assert living_sessions(tmp_path) == 1, "the one that has the lock"
    assert living_sessions(tmp_path) == 0


def test_living_processes_are_counted_beside_a_lock_that_cannot_be_opened(tmp_path: Path) -> None:
    session = Session(tmp_path, "")
    session.begin("study")
    (tmp_path / ".lock").unlink(missing_ok=True)
    (tmp_path / ".lock").mkdir()
    assert living_sessions(tmp_path) == 1
    session.end()


def test_a_process_that_ends_while_others_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = tmp_path / f"{killed(tmp_path)}.json"
    session = Session(tmp_path, "")
    session.begin("study")
    monkeypatch.setattr(sessions, "_read", lambda file: file.unlink())
    assert living_sessions(tmp_path) == 1 and not ends.exists()
    session.end()


def test_a_folder_that_cannot_be_written_has_no_effect(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    session = Session(tmp_path / "file" / "open_runs", "")
    session.begin("study")
    session.end()
    assert living_sessions(tmp_path / "file" / "open_runs") == 0 and not dead(tmp_path / "none")
    assert not (tmp_path / "none").exists()
