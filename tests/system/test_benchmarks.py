"""The benchmark of the gradient runs as a script, and ends with figures that a program can read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

import unroll

SCRIPT = Path(unroll.__file__)


def benchmark(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--json", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    assert set(result) == {"machine", "figures"}
    assert result["machine"]["device"] == "cpu" and result["machine"]["threads"] == 1
    return result["figures"]


@pytest.mark.long
def test_error_of_the_gradient_is_measured_and_small() -> None:
    figures = benchmark("--only", "gradient_error", "--tiny")
    parts = [value for name, value in figures.items() if name != "gradient_error"]
    assert 0 < figures["gradient_error"] == max(parts) <= 1e-12
    assert len(parts) == 2


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_report_for_gpus_runs_at_a_tiny_size() -> None:
    figures = benchmark("--gpu-report", "--tiny", "--no-compile")
    for form in ("engine", "sweep", "micro_batches", "full_unroll"):
        for precision in ("bf16", "float32"):
            for steps in (1, 2):
                assert figures[f"gpu_{form}_{precision}_{steps}_seconds"] > 0
                assert figures[f"gpu_{form}_{precision}_{steps}_peak_gb"] >= 0
    for form in ("sweep", "full_unroll"):
        assert figures[f"gpu_{form}_bf16_largest_syn_steps"] == 4  # the end of its search: everything fits


def test_unknown_figure_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--only", "speed"])
    with pytest.raises(SystemExit) as refused:
        unroll.main()
    assert refused.value.code == 2 and "memory_growth_pairs" in capsys.readouterr().err
