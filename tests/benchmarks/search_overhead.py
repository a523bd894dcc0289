"""Real studies on Ray: one whose trials sleep where they would match and evaluate, and equal trials one or two abreast.

Both sweep drawn pictures under the model of the recorded runs with weights drawn at random, at 64 px and 50 pairs.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from ray import cloudpickle
from rich.console import Console

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.distillation import evaluations
from rayvldd.distillation.loop import OuterLoop, StepReport
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search import trial, tune_adapter
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.sweep import sweep
from rayvldd.hyperparameter_search.trial import TrialContext
from rayvldd.hyperparameter_search.trial_report import Reporter
from rayvldd.records.trial import Trial
from rayvldd.reports.illustrator import Pictures
from rayvldd.storage.folder import FolderStorage
from rayvldd.tracking.opening import open_tracker
from rayvldd.workspace import Workspace

RunTrial = Callable[[str, Mapping[str, SettingValue], TrialContext, Reporter], None]

OUTER_STEPS = 18
_AT_A_TIME = 2


@dataclass(frozen=True)
class StudyTimes:
    """Where the seconds of a study with sleeping trials went."""

    wall: float
    """Of all but preparation, experts and test, which are work of other kinds."""
    asleep: float
    """What all trials together slept ÷ trials at a time."""
    first_report: float
    between: float
    """Mean seconds from a trial's last report to the first one of the trial that takes its place."""

    @property
    def overhead(self) -> float:
        """The share of the wall clock that no trial's work explains."""
        return (self.wall - self.asleep) / self.wall


BOUND = {"epochs": [1], "learning_rates": [0.1], "momentums": [0.9], "batch_sizes": [128]}
"""One recipe of one epoch for the models of all pairs."""


def sleeping_study(folder: Path, trial_seconds: float, num_trials: int, tiny: bool) -> StudyTimes:
    """Run a study of the command ``sweep`` with everything it does, in a workspace where experts are made already."""
    prepared = study_of_size("prepared", 1, 1, tiny)
    run_sweep(prepared, folder, asleep(lambda: None), tiny)
    study = study_of_size("asleep", num_trials, _AT_A_TIME, tiny)
    began = time.monotonic()
    trials, phases = run_sweep(study, folder, asleep(lambda: time.sleep(trial_seconds / OUTER_STEPS)), tiny)
    wall = time.monotonic() - began - sum(phases[name] for name in ("prepare", "experts", "test"))
    starts = sorted(each.evaluations[0].search_seconds for each in trials)
    ends = sorted(each.evaluations[-1].search_seconds for each in trials)
    between = [start - end for start, end in zip(starts[_AT_A_TIME:], ends, strict=False)]
    slept = trial_seconds * len(trials) / _AT_A_TIME
    return StudyTimes(wall, slept, starts[0], float(np.mean(between)))


def trials_an_hour(folder: Path, at_a_time: int, tiny: bool) -> float:
    """Trials that end in an hour, counted from the end of the first ones, when all have begun and loaded their data."""
    counted = at_a_time * (1 if tiny else 3)
    study = study_of_size(f"scaling_{at_a_time}", at_a_time + counted, at_a_time, tiny)
    trials, _ = run_sweep(study, folder, trial.run_trial, tiny)
    ends = sorted(each.evaluations[-1].search_seconds for each in trials)
    return 3600 * counted / (ends[-1] - ends[at_a_time - 1])


def run_sweep(study: Study, folder: Path, run_trial: RunTrial, tiny: bool) -> tuple[list[Trial], Mapping[str, float]]:
    """Run the command ``sweep`` with other trials; returns these and the seconds of its phases."""
    workspace = Workspace(folder)
    tracker = open_tracker("none" if tiny else None, study.name, workspace)
    display = ProgressDisplay(Console(quiet=True))
    with patch.object(tune_adapter, "run_trial", run_trial):
        store = ExpertStore(FolderStorage(workspace.experts))
        result = sweep(study, workspace, store, tracker, display=display, illustrator=Pictures())
    faults = [f"{each.trial_id}: {each.reason}" for each in result.trials if each.outer_step < OUTER_STEPS]
    if faults:
        raise RuntimeError("; ".join(faults))
    return result.trials, StudyFolder(workspace.study(study.name)).seconds()


def asleep(sleep: Callable[[], None]) -> RunTrial:
    """A trial as it is, but for its outer steps, which are sleeps, and its evaluations, which return 10 %."""

    def step(loop: OuterLoop) -> StepReport:
        sleep()
        loop.outer_step += 1
        losses = {"matching_loss": 1.0, "matching_loss_image": 0.5, "matching_loss_text": 0.5}
        numbers = {**losses, "lr_student_image": 0.1, "lr_student_text": 0.1, "drift": 1.0, "rollbacks": 0.0}
        return StepReport(loop.outer_step, "matching_loss", numbers)

    def evaluate(*_: Any) -> list[RetrievalMetrics]:
        return [RetrievalMetrics(*[10.0] * 6)]

    def run_asleep(trial_id: str, point: Mapping[str, SettingValue], context: TrialContext, report: Reporter) -> None:
        with patch.object(OuterLoop, "step", step), patch.object(evaluations, "evaluate_pairs", evaluate):
            trial.run_trial(trial_id, point, context, report)

    return run_asleep


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the trials' processes do not find this folder


def study_of_size(name: str, num_trials: int, at_a_time: int, tiny: bool) -> Study:
    """Five settings of which none changes what a trial takes, and nobody is stopped."""
    rate = {"type": "float", "low": 1.0, "high": 10.0, "log": True}
    step_size = {"type": "float", "low": 0.01, "high": 0.02, "log": True}
    slow = {"type": "float", "low": 1e-6, "high": 1e-5, "log": True}
    encoder: dict[str, Any] = {"name": "mobilenetv1_100", "pretrained": False, "mean": [0.5] * 3, "std": [0.5] * 3}
    if tiny:
        encoder = {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 16, "width": 8}}
    pictures, size, pairs = (12, 16, 4) if tiny else (500, 64, 50)
    return Study.model_validate(
        {
            "name": name,
            "data": {
                "source": "toy_scenes",
                "image_size": size,
                "num_train": 2 * pictures,
                "num_val": pictures,
                "num_test": pictures,
            },
            "model": {
                "protocol": "heads_only",
                "image_encoder": encoder,
                "text_encoder": {"pooling": "hashed_ngrams", "width": 384},
                "width": 16 if tiny else 256,
            },
            "experts": {"num_experts": 1, "epochs": 2, "batch_size": 32},
            "distillation": {
                "num_pairs": pairs,
                "trajectory_matching": {"syn_steps": 2 if tiny else 16},
                "outer_steps": OUTER_STEPS,
                "evaluate_every": 3,
            },
            "evaluation": {"epochs": 2 if tiny else 100, "num_test_students": 2, "full_data": BOUND},
            "search": {
                "space": {
                    "distillation.lr_image": rate,
                    "distillation.lr_text": rate,
                    "distillation.trajectory_matching.lr_lr": slow,
                    "distillation.lr_student_image": step_size,
                    "distillation.lr_student_text": step_size,
                },
                "num_trials": num_trials,
                "max_concurrent": at_a_time,
                "grace_evaluations": OUTER_STEPS,
                "num_finalists": 0,
            },
        }
    )
