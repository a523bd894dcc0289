"""The benchmark of trajectories runs as a script at a tiny size, and prints one object that a program can read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

import trajectories

SCRIPT = Path(trajectories.__file__)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages and memory are looked at through Linux")


def figures(folder: Path, *names: str) -> dict[str, float]:
    command = [sys.executable, str(SCRIPT), "--tiny", "--json", "--folder", str(folder), "--only", ",".join(names)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert list(folder.iterdir()) == []
    printed = json.loads(finished.stdout)
    assert list(printed) == ["machine", "figures"]
    measured: dict[str, float] = printed["figures"]
    assert set(names) <= {*measured, "segment_read_time"}
    return measured


@pytest.mark.long
def test_reading_and_keeping(tmp_path: Path) -> None:
    found = figures(tmp_path, "segment_read_time", "segment_read_memory", "bytes_kept")
    assert all(value > 0 for value in found.values())
    assert found["bytes_kept_tiny"] < found["bytes_kept_3_tiny"] < 1  # a start is shared, and most epochs are left out
    assert found["loss_error"] < found["loss_error_bfloat16_heads_only"]


@pytest.mark.long
def test_transfers_to_s3(tmp_path: Path) -> None:
    found = figures(tmp_path, "s3_efficiency")
    assert found["s3_efficiency"] == min(found["s3_efficiency_write"], found["s3_efficiency_read"]) > 0


@pytest.mark.long
def test_sharing_and_making_with_ray(tmp_path: Path) -> None:
    found = figures(tmp_path, "first_segment_ms", "shared_memory_growth", "fleet_scaling")
    assert found["first_segment_ms_folder"] > 0 and found["first_segment_ms_object_store"] > 0
    assert found["shared_set_mib"] > 0 and found["fleet_epoch_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "speed"], "fleet_scaling"),
        (["--folder", "/dev/shm", "--only", "segment_read_time"], "allowed: a folder on a disk"),
    ],
)
def test_impossible_measurements_are_rejected(
    arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as refused:
        trajectories.main()
    assert refused.value.code == 2 and reason in capsys.readouterr().err
