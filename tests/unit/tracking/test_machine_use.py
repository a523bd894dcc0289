"""Memory and energy: values of the machine are read unchanged, and missing ones are left out."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayvldd.tracking import machine_use
from rayvldd.tracking.machine_use import MachineEnergy, PeakMemory


def has_mark() -> bool:
    return "peak_memory_gb" in PeakMemory().metrics()


@pytest.mark.skipif(not has_mark(), reason="this kernel keeps no high-water mark that can be reset")
def test_the_peak_is_of_this_computation_and_not_of_an_earlier_one() -> None:
    before = PeakMemory()
    at_start = before.metrics()["peak_memory_gb"]
    block = np.ones(50_000_000)  # 0.4 GB
    del block
    assert before.metrics()["peak_memory_gb"] > at_start + 0.3
    assert PeakMemory().metrics()["peak_memory_gb"] < at_start + 0.1


def test_no_mark_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_use, "_PROCESS", tmp_path / "nowhere")
    assert PeakMemory().metrics() == {}


def set_counter(zone: Path, microjoules: int, name: str = "package-0") -> None:
    zone.mkdir(exist_ok=True)
    (zone / "name").write_text(name + "\n")
    (zone / "max_energy_range_uj").write_text("10000000000\n")
    (zone / "new").write_text(f"{microjoules}\n")
    (zone / "new").replace(zone / "energy_uj")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Counters of two processors, with a part of one and the whole board, which must not be counted again."""
    monkeypatch.setattr(machine_use, "_gpu_joules", lambda: None)
    zones = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:1"
    for zone in zones:
        set_counter(zone, 9_000_000_000)
    set_counter(tmp_path / "intel-rapl:0:0", 5, "core")
    set_counter(tmp_path / "intel-rapl:2", 5, "psys")
    return zones


def test_energy_of_all_packages_through_a_counter_that_turns_over(tmp_path: Path, packages: tuple[Path, Path]) -> None:
    energy = MachineEnergy(tmp_path)
    assert energy.metrics() == {"machine_cpu_kj": 0.0}
    set_counter(packages[0], 9_500_000_000)
    energy.read()
    set_counter(packages[0], 500_000_000)
    set_counter(packages[1], 9_250_000_000)
    assert energy.metrics() == {"machine_cpu_kj": pytest.approx(0.5 + 1.0 + 0.25)}
    assert energy.metrics() == {"machine_cpu_kj": pytest.approx(1.75)}


def test_the_counters_are_read_while_a_block_runs(
    tmp_path: Path, packages: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_use, "_EVERY_S", 0.01)
    energy = MachineEnergy(tmp_path)
    with energy.reading():
        for microjoules in (9_900_000_000, 800_000_000, 1_700_000_000):
            set_counter(packages[0], microjoules)
            deadline = 500
            while energy._last[packages[0]] != microjoules and deadline:
                deadline -= 1
                time.sleep(0.01)
    assert energy.metrics()["machine_cpu_kj"] == pytest.approx(2.7)


def test_a_counter_that_may_not_be_read(tmp_path: Path, packages: tuple[Path, Path]) -> None:
    (packages[1] / "energy_uj").unlink()
    (packages[1] / "energy_uj").mkdir()  # unreadable, to root as well
    assert MachineEnergy(tmp_path).metrics() == {}, "one of two packages would pass for both"
    assert MachineEnergy(tmp_path / "nowhere").metrics() == {}


def test_a_counter_that_is_empty_for_a_while_ends_neither_the_reader_nor_the_study(
    tmp_path: Path, packages: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_use, "_EVERY_S", 0.01)
    energy = MachineEnergy(tmp_path)
    with energy.reading():
        (packages[0] / "energy_uj").write_text("")
        time.sleep(0.1)
        assert energy.metrics() == {}, "what cannot be read is left out"
        set_counter(packages[0], 9_900_000_000)
        end = time.monotonic() + 20
        while energy._last[packages[0]] != 9_900_000_000 and time.monotonic() < end:
            time.sleep(0.01)
    assert energy.metrics() == {"machine_cpu_kj": pytest.approx(0.9)}


def test_energy_of_gpus_is_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = [1000.0, 3500.0, None]
    monkeypatch.setattr(machine_use, "_gpu_joules", lambda: counted.pop(0))
    energy = MachineEnergy(tmp_path)
    assert energy.metrics() == {"machine_gpu_kj": 2.5}
    assert energy.metrics() == {}, "the driver has gone"
