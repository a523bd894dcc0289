"""The tensor rooms on a pretend accelerator: the numbers of the CPU, and few waits for the device."""

import json
import os
import subprocess
import sys

from helpers.paths import ROOT

OUTER_WAITS = {"covariance": 4}
"""Most waits of an outer step, where it is not 2: covariance matching also checks two matrices."""
TOLERANCES = {
    "metrics": 1e-5,
    "together heads_only": 1e-5,
    "together lora": 1e-5,
    "two devices full_image_encoder": 1e-12,
    "two devices lora": 1e-12,
}
"""Largest difference of what only the accelerator does in one pass, or on two devices; all other numbers are equal."""
EXPERT_WAITS = 20
"""Waits of two epochs of an expert: losses, parameters, and recalls on validation; none in a batch."""


def test_every_part_gives_the_numbers_of_the_cpu_and_seldom_waits_for_the_device() -> None:
    # One test, because torch allows one pretend device in a process, registered before the first backward pass.
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    script = ROOT / "tests" / "helpers" / "on_both_devices.py"
    finished = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    runs = {run["name"]: run for run in map(json.loads, finished.stdout.splitlines())}

    assert {name: run["error"] for name, run in runs.items() if run["error"]} == {}
    differences = {name: run["difference"] for name, run in runs.items()}
    assert {name: found for name, found in differences.items() if found > TOLERANCES.get(name, 0.0)} == {}
    assert TOLERANCES.keys() <= runs.keys()
    steps = {name: run for name, run in runs.items() if run["outer_steps"]}
    assert {"trajectory_matching lora", "meta_model full_image_encoder", "covariance heads_only"} <= steps.keys()
    assert {name: run["inner_waits"] for name, run in steps.items() if run["inner_waits"]} == {}
    waits = {name: sum(run["waits"].values()) for name, run in steps.items()}
    assert {name: n for name, n in waits.items() if n > OUTER_WAITS.get(name.split()[0], 2)} == {}
    experts = {
        name: sum(run["waits"].values()) for name, run in runs.items() if name.startswith(("experts", "prefetched"))
    }
    assert len(experts) == 5
    assert {name: number for name, number in experts.items() if number != EXPERT_WAITS} == {}
