"""Leases: a live holder keeps its lease despite failures, and is not considered dead."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from rayvldd.storage import machine_identity as module
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.lease import LeaseHolder, LeaseState, is_dead_here, state_of
from rayvldd.storage.machine_identity import machine_identity


class Failing(FolderStorage):
    """A storage whose writes raise the given errors."""

    error: Exception | None = None

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        if self.error:
            raise self.error
        return super().swap(name, old, new)


@pytest.mark.parametrize(
    "error", [KeyError("AWS_PROFILE"), RuntimeError("x"), OSError(28, "full"), NotImplementedError]
)
def test_the_heartbeat_continues_after_an_unexpected_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr("rayvldd.storage.lease.BEAT_S", 0.005)
    storage = Failing(tmp_path)
    lease = LeaseHolder().acquire(storage, "lease")
    assert lease is not None
    with lease:
        storage.error = error
        wait_until(lambda: lease.error is not None)
        lease.report_progress(3)  # the work continues
        storage.error = None
        before = state_of(storage, "lease")
        wait_until(lambda: state_of(storage, "lease") != before)
        wait_until(lambda: lease.error is None)
    assert "others may take the work over" in caplog.text
    assert state_of(storage, "lease") is None


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120  # a beat waits for a core on a busy machine
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def dead_process() -> int:
    """The number of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert not psutil.pid_exists(process.pid)
    return process.pid


def test_a_holder_of_a_machine_with_this_name_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine_identity()
    assert is_dead_here(LeaseState("x", here, dead_process(), 0, 0))
    (tmp_path / "boot_id").write_text("another boot, of a machine cloned from the image of this one\n")
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    there = machine_identity.__wrapped__()
    assert list(tmp_path.glob("rayvldd-machine-*")), "the token of that boot is no litter of this machine"
    assert there.split()[0] == here.split()[0], "the host name is the same"
    state = LeaseState("x", there, dead_process(), 0, 0)
    assert not is_dead_here(state)
    assert not LeaseHolder().may_take("lease", state.as_bytes())


def test_processes_of_a_machine_agree_and_a_folder_of_its_own_separates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from rayvldd.storage.machine_identity import machine_identity; print(machine_identity())"

    def other(**environment: str) -> str:
        run = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, check=True, capture_output=True, text=True
        )
        return run.stdout.strip()

    assert other() == machine_identity.__wrapped__()
    container = tmp_path / "of a container"
    container.mkdir()
    first, second = other(TMPDIR=str(container)), other(TMPDIR=str(container))
    assert first == second != machine_identity.__wrapped__()
    assert len(list(container.iterdir())) == 1


def test_a_file_that_cannot_be_kept_makes_every_process_its_own_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert machine_identity.__wrapped__() != machine_identity.__wrapped__()


@pytest.mark.parametrize(
    "change",
    [{"process": value} for value in (None, "7", 7.5, True, -1, 2**31, [7])]
    + [{"beat": "3"}, {"done": None}, {"owner": 1}, {"machine": None}, {"more": 1}],
    ids=str,
)
def test_a_damaged_lease_goes_stale_like_that_of_a_dead_holder(tmp_path: Path, change: dict[str, Any]) -> None:
    storage, lease_holder = FolderStorage(tmp_path), LeaseHolder()
    sound = asdict(LeaseState("an owner", machine_identity(), os.getpid(), beat=3, done=0))
    storage.write("lease", json.dumps({**sound, **change}).encode())
    assert state_of(storage, "lease") is None
    assert lease_holder.acquire(storage, "lease") is None, "it is watched first"
