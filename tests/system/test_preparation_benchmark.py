"""The benchmark of preparation runs as a script at a tiny size, and prints one object that a program can read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import BENCHMARKS

SCRIPT = BENCHMARKS / "preparation.py"


@pytest.mark.long
@pytest.mark.timeout(600)  # Ray starts, and two pipelines in it
@pytest.mark.skipif(sys.platform != "linux", reason="memory is looked at through Linux")
def test_pairs_a_second_and_memory(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--tiny", "--json", "--folder", str(tmp_path), "--only", "pairs_per_second"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert list(tmp_path.iterdir()) == []
    printed = json.loads(finished.stdout)
    assert list(printed) == ["machine", "figures"]
    found = printed["figures"]
    assert found["shards_200"] == 6  # three splits, images and captions, each in one
    assert found["driver_mib_200"] > 0 and found["worker_mib_200"] > 0
    assert found["pairs_per_second"] == pytest.approx(200 / found["prepare_s_200"])


def test_numbers_of_pairs_are_checked() -> None:
    command = [sys.executable, str(SCRIPT), "--pairs", "25000,many"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "got '25000,many'; allowed: numbers from 100 on" in finished.stderr
