"""The contract of trackers."""

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.testing.toy import toy_study
from rayvldd.tracking.protocol import Origins, Tracker

Written = Callable[[], Mapping[str, Mapping[int, float]]]
"""Reads back the records of a tracker: for every trial the values of the metric ``val_mean_recall`` by step."""


def check_tracker(make: Callable[[], Tracker], written: Written, folder: Path) -> None:
    """Check that a study with three trials is written once, although the driver sends the first part of it twice.

    Args:
        make: Returns the tracker; called twice, as by a command that was interrupted and repeated.
        written: Reads the records afterwards.
        folder: Empty folder for artifacts.

    Raises:
        AssertionError: if the contract is violated.
    """
    study = toy_study()
    artifacts = folder / "artifacts"
    artifacts.mkdir(parents=True)
    (artifacts / "note.txt").write_text("kept", encoding="utf-8")
    picture = folder / "picture.png"
    Image.new("RGB", (4, 4)).save(picture)
    for session in range(2):
        tracker = make()
        assert tracker.uri, "a tracker has the location of its records as uri"
        tracker.start_study(study, "sweep toy.yaml")
        tracker.log_origins(None, Origins({"data": "d" * 16}))
        tracker.start_trial("trial_002", {"distillation.lr_image": 30.0})
        tracker.log_metrics("trial_002", {VAL_MEAN_RECALL: 0.5, BEST_VAL_MEAN_RECALL: 0.5}, 0)
        tracker.end_trial("trial_002", "stopped", artifacts, {})
        tracker.start_trial("trial_000", {"distillation.lr_image": 10.0})
        tracker.log_metrics("trial_000", {VAL_MEAN_RECALL: 1.5}, 0)
        tracker.log_picture("trial_000", picture, 0)
        with tracker.sampling_machine():
            pass
        if session == 0:
            tracker.end_study("interrupted", {}, None)
            continue
        tracker.log_metrics("trial_000", {VAL_MEAN_RECALL: 2.5}, 2)
        tracker.end_trial("trial_000", "finished", artifacts, {})
        tracker.start_trial("trial_001", {"distillation.lr_image": 20.0})
        tracker.end_trial("trial_001", "failed", None, {"reason": "diverged"})
        tracker.end_study("finished", {MEAN_RECALL.on("test"): 2.0}, None)
    found = written()
    assert dict(found["trial_000"]) == {0: 1.5, 2: 2.5}, f"the records of trial_000 are {dict(found['trial_000'])}"
    assert dict(found["trial_002"]) == {0: 0.5}, f"the records of trial_002 are {dict(found['trial_002'])}"
    assert not found.get("trial_001"), "a trial without an evaluation has values"
