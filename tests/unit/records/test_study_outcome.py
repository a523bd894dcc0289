"""The outcome of a study: its file is read as it was written, and other files are refused with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from rayvldd.errors import StoreError
from rayvldd.records.study_outcome import StudyOutcome

FINALIST = {
    "trial_id": "trial_001",
    "config": {"distillation.lr_image": 3.0},
    "search_val_mean_recall": 21.0,
    "val_mean_recall": 20.0,
    "val_interval": None,
    "sets": [
        {"name": "again_0", "seed": 5, "state": "finished", "val_mean_recall": 20.0, "students": [19.0, 21.0]},
        {"name": "again_1", "seed": 6, "state": "failed", "reason": "diverged"},
    ],
}
VALUES: dict[str, Any] = {
    "study": "tiny",
    "protocol": "heads_only",
    "num_pairs": 4,
    "trials": {"finished": 2, "failed": 1},
    "best": {
        "trial_id": "trial_001",
        "config": {"a": 1, "b": "x", "c": True},
        "outer_step": 10,
        "val_mean_recall": 20.0,
    },
    "front": [{"trial_id": "trial_001", "config": {"a": 1}, "val_mean_recall": 20.0}],
    "finalists": [FINALIST],
    "test": {
        "mean_recall": 18.0,
        "interval": [17.0, 19.0],
        "num_students": 2,
        "random_mean_recall": 5.0,
        "full_data_mean_recall": 24.0,
        "share_of_full_data": 0.75,
        "text_to_image_r1": 7.0,
        "students": {"distilled": [17.5, 18.5]},
    },
}


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    outcome, file = StudyOutcome.model_validate(VALUES, strict=False), tmp_path / "result.json"
    outcome.write(file)
    assert StudyOutcome.read(file) == outcome
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["format"] == 1 and written["finalists"] == [FINALIST] and written["front"] == VALUES["front"]
    assert [type(value) for value in outcome.best.config.values()] == [int, str, bool]
    assert "seeds" not in written and "image_to_text_r1" not in written["test"], "nothing that was never measured"
    assert outcome.finalists[0].num_failed == 1
    assert outcome.sets_and_students == "1 set × 2 students, 1 of 2 failed"


def test_failed_distillations_of_other_points_are_not_those_of_the_test() -> None:
    other = {**FINALIST, "trial_id": "trial_002"}
    outcome = StudyOutcome.model_validate({**VALUES, "finalists": [other]}, strict=False)
    assert outcome.words_of_failed == "" and outcome.sets_and_students == "1 set × 2 students"


def test_only_numbers_that_were_measured_are_for_trackers() -> None:
    numbers = StudyOutcome.model_validate(VALUES, strict=False).test.numbers
    assert numbers["mean_recall"] == 18.0 and numbers["text_to_image_r1"] == 7.0 and numbers["num_students"] == 2
    assert not numbers.keys() & {"interval", "interval_over", "students", "image_to_text_r1"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "the result of a study in format 2, of a newer release; this release reads format 1"),
        ({"test": {}}, "not readable as the result of a study: 6 values do not fit, first test.mean_recall"),
        ({"format": "1"}, "not readable as the result of a study"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"format": 1, **VALUES, **changes}), encoding="utf-8")
    with pytest.raises(StoreError, match=expected):
        StudyOutcome.read(file)
