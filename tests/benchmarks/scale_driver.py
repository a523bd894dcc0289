"""CPU time of a search's driver for its trials, and of a lease, measured without a cluster."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from search_overhead import study_of_size

from rayvldd.config.domains import FloatDomain, SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.data.dataset import Split
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.recorder import Recorder, StudyRun
from rayvldd.hyperparameter_search.strategy import make_strategy
from rayvldd.hyperparameter_search.trial_report import EvaluationReport
from rayvldd.models.retrieval_task import SplitInputs
from rayvldd.records.trial import Evaluation, Trial, trial_id_of
from rayvldd.reports.illustrator import Pictures
from rayvldd.storage.folder import FolderStorage
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.tracking.mlflow_tracker import MlflowTracker

REPORTS = 7
"""Of one trial: the start, and every third of 18 outer steps."""

_TIMED_REPORTS, _TIMED_BEATS = 50, 50


def report_seconds(folder: Path, num_trials: int) -> float:
    """CPU seconds of the driver for one report while a number of trials run, tracked in plain files."""
    study, points = _points(num_trials)
    tracker, ledger = FolderTracker(folder / "tracking"), Ledger(folder / "trials")
    tracker.start_study(study, "rayvldd sweep")
    recorder = Recorder(StudyRun(study, ledger, tracker, ProgressDisplay(Console(quiet=True)), None, _no_inputs))
    trials = [trial_id_of(number) for number in range(num_trials)]
    for number, trial in enumerate(trials):
        # As Recorder.start does it, without a look at all the others each time.
        ledger.start(number, 0, points[number])
        tracker.start_trial(trial, points[number])
        ledger.add_evaluation(trial, Evaluation(0, {VAL_MEAN_RECALL: 1.0, BEST_VAL_MEAN_RECALL: 1.0}, 1.0))
    strategy = make_strategy(study, recorder.history)
    timed = [trials[number % num_trials] for number in range(_TIMED_REPORTS)]
    began = time.process_time()
    for number, trial in enumerate(timed):
        report = EvaluationReport(3 * (1 + number // num_trials), _metrics())
        strategy.decide(recorder.evaluation(trial, report), recorder.history)
    return (time.process_time() - began) / len(timed)


def suggest_seconds(known_trials: int) -> float:
    """CPU seconds of the study's own sampler for a point, after a number of trials."""
    study, points = _points(known_trials)
    ledger, rng = Ledger(Path()), np.random.default_rng(1)
    for number, point in enumerate(points):
        recall = float(rng.uniform(0, 10))
        last = Evaluation(18, {VAL_MEAN_RECALL: recall, BEST_VAL_MEAN_RECALL: recall}, 1.0)
        name = trial_id_of(number)
        ledger.trials[name] = Trial(name, number, 0, point, Path(), "finished", evaluations=[last])
    strategy = make_strategy(study, ledger.trials.values())
    strategy.propose(ledger.trials.values())  # the first one also prepares
    began = time.process_time()
    for _ in range(3):
        strategy.propose(ledger.trials.values())
    return (time.process_time() - began) / 3


def mlflow_seconds(folder: Path, num_trials: int) -> float:
    """Seconds a trial until all of it is written, where the writer has nothing else to do and no trial has files."""
    study, points = _points(num_trials)
    folder.mkdir()
    tracker = MlflowTracker(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    tracker.start_study(study, "rayvldd sweep")
    began = time.perf_counter()
    for number, point in enumerate(points):
        tracker.start_trial(trial_id_of(number), point)
    for report in range(REPORTS):
        for number in range(num_trials):
            tracker.log_metrics(trial_id_of(number), _metrics(), 3 * report)
    for number in range(num_trials):
        tracker.end_trial(trial_id_of(number), "finished", None, {})
    tracker.end_study("finished", {}, None)  # waits for the writer
    return (time.perf_counter() - began) / num_trials


def pictures_seconds(folder: Path, num_pairs: int, num_captions: int) -> float:
    """CPU seconds of the driver for the nearest captions and the picture of a set, at the end of a trial, 224 px."""
    rng = np.random.default_rng(0)
    images, texts = rng.random((2, num_pairs, 3, 224, 224), np.float32), rng.random((2, num_pairs, 768), np.float32)
    end, start = ([torch.from_numpy(values[number]) for values in (images, texts)] for number in (1, 0))
    starts = [f"a drawn caption, number {pair}" for pair in range(num_pairs)]
    DistilledSet(end[0], end[1], start[0], start[1], starts, 0.1, 0.1).save(folder)
    captions = [f"a caption to be found, number {number}" for number in range(num_captions)]
    split = Split("train", [], np.zeros((0, 3, 1, 1), np.uint8), captions, np.zeros(num_captions, np.int64))
    train = SplitInputs(split, np.zeros((0, 1), np.float32), rng.random((num_captions, 768), np.float32))
    Pictures().draw_set(folder, train)  # fonts are found
    began = time.process_time()
    Pictures().draw_set(folder, train)
    return time.process_time() - began


def beat_seconds(folder: Path) -> float:
    """Seconds of one beat of a claim in a folder on this disk; one lock is held meanwhile, whoever else beats."""
    place, before = FolderStorage(folder), None
    began = time.perf_counter()
    for beat in range(_TIMED_BEATS):
        after = str(beat).encode()
        assert place.swap("claim", before, after)
        before = after
    return (time.perf_counter() - began) / _TIMED_BEATS


def _points(number: int) -> tuple[Study, list[dict[str, SettingValue]]]:
    """A study with a number of trials, and a point for each."""
    study, rng = study_of_size("driver", number, number, tiny=False), np.random.default_rng(0)
    domains = {key: domain for key, domain in study.space.domains.items() if isinstance(domain, FloatDomain)}
    rows = rng.uniform(size=(number, len(domains)))
    return study, [
        {key: d.low * (d.high / d.low) ** float(x) for (key, d), x in zip(domains.items(), row, strict=True)}
        for row in rows
    ]


def _metrics() -> dict[str, float]:
    """What a trial's evaluation holds, under the names of real ones."""
    recalls = {f"val_{side}_r{k}": 10.0 for side in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    losses = ("matching_loss", "matching_loss_image", "matching_loss_text", "lr_student_image", "lr_student_text")
    seconds = ("seconds_matching", "seconds_evaluating")
    return {**dict.fromkeys((*losses, *seconds), 1.0), **recalls, VAL_MEAN_RECALL: 10.0, BEST_VAL_MEAN_RECALL: 10.0}


def _no_inputs(point: Mapping[str, SettingValue]) -> SplitInputs:
    """Nothing is drawn."""
    raise AssertionError("no trial ends here")
