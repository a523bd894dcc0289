"""Whole searches over distillation methods, one of them from another package that needs no experts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT
from helpers.studies import ONE_AT_A_TIME, TINY_STUDY

pytestmark = pytest.mark.timeout(700)  # a sweep may take its 600 s on a machine that is busy

PACKAGE = '''
"""Pulls every pair towards the mean pair of the real data: a method that needs no experts."""

from typing import ClassVar

from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings


class PullSettings(MethodSettings):
    method: ClassVar[str] = "pull"
    strength: float = 1.0


DECLARATION = MethodDeclaration(PullSettings, "pull_method:Pull")
'''
IMPLEMENTATION = """
import numpy as np

from pull_declaration import PullSettings
from rayvldd.distillation.method import MethodStep


class Pull:
    lr_step_sizes = None

    def __init__(self, task, settings, experts):
        assert not experts, "the method declares that it uses none"
        self._strength = settings.of(PullSettings).strength
        self._images = task.pixels(task.train, np.arange(task.train.num_images)).mean(0)
        self._texts = task.texts(task.train, np.arange(len(task.train.caption_embeddings))).mean(0)

    def gradient(self, synthetic_set, outer_step, generator):
        away = {"images": synthetic_set.images - self._images, "texts": synthetic_set.texts - self._texts}
        loss = self._strength * sum(part.square().mean() for part in away.values())
        gradients = {name: 2 * self._strength * part / part.numel() for name, part in away.items()}
        return MethodStep(loss, gradients, {"pull_loss": loss})

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for the import path, with the package's modules and its entry point as pip would leave them."""
    folder = tmp_path / "site"
    (folder / "pull-1.0.dist-info").mkdir(parents=True)
    (folder / "pull_declaration.py").write_text(PACKAGE)
    (folder / "pull_method.py").write_text(IMPLEMENTATION)
    (folder / "pull-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pull\nVersion: 1.0\n")
    points = "[rayvldd.distillation_methods]\npull = pull_declaration:DECLARATION\n"
    (folder / "pull-1.0.dist-info" / "entry_points.txt").write_text(points)
    return folder


def study_file(folder: Path, distillation: dict[str, Any], search: dict[str, Any]) -> Path:
    common = {"num_pairs": 4, "lr_image": 10.0, "lr_text": 10.0, "outer_steps": 4, "evaluate_every": 2}
    study = {
        **TINY_STUDY,
        "distillation": {**common, **distillation},
        "search": {"num_finalists": 0, **search},
        "resources": ONE_AT_A_TIME if (os.cpu_count() or 1) > 1 else {},
    }
    file = folder / "study.yaml"
    file.write_text(json.dumps(study))  # JSON is YAML
    return file


def rayvldd(
    command: str, file: Path, workspace: Path, installed: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, whose Ray workers find the package too."""
    path = os.pathsep.join([str(installed), str(ROOT), os.environ.get("PYTHONPATH", "")])
    arguments = [sys.executable, "-m", "rayvldd", command, str(file), "--workspace", str(workspace), *options]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def trials_of(workspace: Path) -> list[dict[str, Any]]:
    return [
        json.loads(file.read_text())
        for file in sorted((workspace / "studies" / "tiny" / "trials").glob("*/trial.json"))
    ]


def test_a_method_of_another_package_is_searched_without_experts(tmp_path: Path, installed: Path) -> None:
    space = {"distillation.pull.strength": {"type": "float", "low": 0.5, "high": 2.0}}
    file = study_file(tmp_path, {"method": "pull"}, {"space": space, "num_trials": 2, "scheduler": "none"})
    planned = rayvldd("sweep", file, tmp_path / "w", installed, "--dry-run")
    assert "experts: none, pull needs none" in planned.stdout + planned.stderr
    rayvldd("sweep", file, tmp_path / "w", installed)
    assert [trial["state"] for trial in trials_of(tmp_path / "w")] == ["finished", "finished"]
    assert not (tmp_path / "w" / "experts").exists()


def test_one_search_ranges_over_methods_each_with_its_own_settings(tmp_path: Path, installed: Path) -> None:
    method = "distillation.method"
    space = {
        method: {"type": "choice", "values": ["trajectory_matching", "expert_fit", "pull"]},
        "distillation.trajectory_matching.syn_steps": {
            "type": "int", "low": 1, "high": 2, "when": {method: "trajectory_matching"},
        },
        "distillation.expert_fit.weight_joint": {
            "type": "float", "low": 0.1, "high": 1.0, "when": {method: "expert_fit"},
        },
        "distillation.pull.strength": {"type": "float", "low": 0.5, "high": 2.0, "when": {method: "pull"}},
    }  # fmt: skip
    points = [
        {method: "trajectory_matching", "distillation.trajectory_matching.syn_steps": 2},
        {method: "expert_fit", "distillation.expert_fit.weight_joint": 0.5},
        {method: "pull", "distillation.pull.strength": 1.0},
    ]
    sections = {
        "trajectory_matching": {"max_start_epoch": 1, "lr_lr": 1e-6},
        "expert_fit": {"max_epoch": 2, "batch_size": 4},
    }
    search = {"space": space, "initial_points": points, "num_trials": 3, "scheduler": "none"}
    file = study_file(tmp_path, sections, search)
    rayvldd("sweep", file, tmp_path / "w", installed)
    trials = trials_of(tmp_path / "w")
    assert [trial["state"] for trial in trials] == ["finished"] * 3, trials
    assert sorted(json.dumps(trial["point"], sort_keys=True) for trial in trials) == sorted(
        json.dumps(point, sort_keys=True) for point in points
    )
    assert (tmp_path / "w" / "experts").is_dir(), "two of the methods use experts"
