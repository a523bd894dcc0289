"""Distillations of Flickr8k at the first points of shipped spaces, and their scores on test beside the full-data bound.

A run is kept in the workspace by its settings and seed, so that figures share their runs.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rayvldd.config.domains import SettingValue
from rayvldd.config.loading import load_study
from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.shipped_spaces import shipped_spaces
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache, fingerprint
from rayvldd.distillation.loop import distill
from rayvldd.experts.recipe import expert_training
from rayvldd.experts.training import train_expert
from rayvldd.models.retrieval_task import load_task
from rayvldd.workspace import Workspace


@dataclass(frozen=True)
class Run:
    """One distilled set and its course."""

    folder: str
    """The best set on validation."""
    seconds: tuple[float, ...]
    """CPU seconds at every evaluation, experts included."""
    recalls: tuple[float, ...]
    """Mean recall on validation at every evaluation."""

    def seconds_to(self, recall: float) -> float | None:
        """CPU seconds until the first evaluation with this recall; None if there is none."""
        reached = (second for second, found in zip(self.seconds, self.recalls, strict=True) if found >= recall)
        return next(reached, None)


def first_point(space: str, changes: Mapping[str, SettingValue]) -> Study:
    """A shipped study at its first point, with changes."""
    study = load_study(shipped_spaces()[space])
    return study.at({**study.first_point(), **changes})


def distilled(study: Study, seed: int, workspace: Path) -> Run:
    """Distil in this process, or return the earlier run of the same settings and seed."""
    values = study.model_dump(mode="json", exclude={"name", "search", "resources"})
    folder = workspace / "runs" / fingerprint({"study": values, "seed": seed})
    kept = folder / "run.json"
    if kept.is_file():
        return Run(**json.loads(kept.read_text()))
    task = load_task(study.data, study.model, ArrayCache(Workspace(workspace).cache), device="cpu")
    begun = time.process_time()
    experts = [train_expert(task, expert_training(study), index)[0] for index in _experts_of(study)]
    seconds, recalls = [], []
    for evaluation in distill(study, task, experts, seed):
        seconds.append(time.process_time() - begun)
        recalls.append(evaluation.metrics[VAL_MEAN_RECALL])
        print(f"  {study.name}, seed {seed}: {recalls[-1]:.2f} after {seconds[-1]:.0f} CPU s", file=sys.stderr)
        if evaluation.is_best:
            evaluation.distilled_set.save(folder / "set")
    run = Run(str(folder / "set"), tuple(seconds), tuple(recalls))
    kept.write_text(json.dumps(asdict(run)))
    return run


def distilled_in_turn(studies: Sequence[Study], seed: int, workspace: Path) -> Run:
    """Distil each study from the best set of the one before; the course is that of all of them, with their seconds."""
    first, *others = studies
    run = distilled(first, seed, workspace)
    for study in others:
        later = distilled(study.at({"distillation.initialise_from": run.folder}), seed, workspace)
        seconds = (run.seconds[-1] + second for second in later.seconds)
        run = Run(later.folder, (*run.seconds, *seconds), (*run.recalls, *later.recalls))
    return run


def _experts_of(study: Study) -> range:
    return range(study.experts.num_experts if study.requires_experts else 0)


def scores(sets: Sequence[str], workspace: Path, *options: str, students: int = 5) -> dict[str, Any]:
    """The object of ``rayvldd evaluate --split test --json``."""
    command = [sys.executable, "-m", "rayvldd", "evaluate", *sets, "--split", "test", "--students", str(students)]
    command += ["--workspace", str(workspace), "--json", *options]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "none"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def mean_recall(found: Mapping[str, Any]) -> float:
    """Mean over sets of the mean recall over their students."""
    return fmean(row["mean"]["mean_recall"] for row in found["sets"])


def share(found: Mapping[str, Any]) -> float:
    """Mean over sets of the share of the full-data bound."""
    return fmean(row["share_of_full_data"] for row in found["sets"])
