"""The benchmark for GPUs runs at a tiny size on the CPU and on a pretend accelerator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import BENCHMARKS, ROOT


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("device", ["cpu", "pretend"])
def test_every_part_is_measured(device: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(BENCHMARKS / "gpu.py"), "--tiny", "--device", device, "--minutes", "4", "--out", str(tmp_path)]
    finished = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr

    result = json.loads((tmp_path / "gpu.json").read_text())
    figures = result["figures"]
    assert result["machine"]["device"] == device
    assert {name for name, value in figures.items() if value is None} == set()
    assert 0 <= figures["two_devices"] <= 1e-12
    assert figures.get("syncs_inner") == (0 if device == "pretend" else None)
    assert (figures["gpu_steps"], figures["gpu_pairs"]) == (2, 4)  # the end of the searches: all fit
    for name in ("nfnet", "vit_lora", "resnet50_heads"):
        for steps in (1, 2):
            assert figures[f"{name}_4_pairs_{steps}_steps_float32_eager_seconds"] > 0
        assert figures[f"evaluation_seconds_{name}"] > 0 and figures[f"students_a_second_apart_{name}"] > 0
        for form in ("prefetched", "on_demand"):
            assert figures[f"batches_{form}_{name}_seconds"] > 0
    for name in ("nfnet", "vit_lora"):
        assert figures[f"{name}_channels_last_float32_seconds"] > 0
        assert figures[f"{name}_channels_last_float32_error"] < 1e-3
    assert "resnet50_heads_channels_last_float32_seconds" not in figures, "features have no channels"
    errors = [figures.get(f"{name}_bf16_error") for name in ("nfnet", "vit_lora", "resnet50_heads")]
    assert all(1e-4 < error < 0.5 for error in errors) if device == "cpu" else errors == [None] * 3
    assert figures["students_stacked_vit_lora"] > 0 and figures["experts_an_hour_resnet50_heads_4"] > 0
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("\n|") == len(figures) + 2
