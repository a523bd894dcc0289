"""Plain files of a study that is reopened."""

import json
from pathlib import Path

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.tracking.folder_tracker import FolderTracker


def test_a_reopened_study_keeps_the_metrics_of_its_next_trial(tiny_study: Study, tmp_path: Path) -> None:
    for ended in (1, 2):
        tracker = FolderTracker(tmp_path)
        tracker.start_study(tiny_study, "rayvldd sweep tiny.yaml")
        tracker.log_metrics(None, {BEST_VAL_MEAN_RECALL: float(ended)}, ended)
        tracker.end_study("finished", {BEST_VAL_MEAN_RECALL: float(ended), "seconds_total": 1.0}, None)
    events = [json.loads(line) for line in (tmp_path / "study.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in events if event["event"] == "metrics"] == [1, 2]
    assert tracker.next_step(None, BEST_VAL_MEAN_RECALL) == 3
    assert tracker.next_step(None, "seconds_total") == 2, "one of each session"
