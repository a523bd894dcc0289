"""The record of a trial: it is read as written, and everything else is rejected with a message."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers.mutations import mutated
from helpers.searches import evaluated
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvldd.config.domains import SettingValue
from rayvldd.errors import StoreError
from rayvldd.records.trial import Evaluation, Prediction, Trial, best_first, best_of, in_order_of_recall, trial_id_of

POINT: dict[str, SettingValue] = {
    "distillation.lr_image": 10.0,
    "distillation.num_pairs": 4,
    "a.flag": True,
    "a.word": "x",
    "a.list": ("x", 1),
    "a.null": None,
}


def written(folder: Path, *evaluations: Evaluation, number: int = 3, **values: Any) -> Trial:
    trial = Trial(trial_id_of(number), number, 7, POINT, folder / trial_id_of(number), **values)
    trial.write()
    for evaluation in evaluations:
        assert trial.add(evaluation)
    return trial


def of(number: int, *recalls: float, state: Any = "finished") -> Trial:
    evaluations = [evaluated(2 * place, recall) for place, recall in enumerate(recalls)]
    return Trial(trial_id_of(number), number, 1, {}, Path(), state, evaluations=evaluations)


def test_a_trial_is_read_as_it_was_written(tmp_path: Path) -> None:
    evaluations = evaluated(0, 5.0, 1.5), evaluated(2, 7.25, 3.0, matching_loss=0.1)
    trial = written(tmp_path, *evaluations, reason="because", prediction=Prediction(recall=9.5, sd=2))
    again = Trial.read(trial.folder)
    assert again == trial and again.prediction == Prediction(recall=9.5, sd=2.0)
    assert {key: type(value) for key, value in again.point.items()} == {key: type(v) for key, v in POINT.items()}


metrics = st.dictionaries(st.text(max_size=8), st.floats(), max_size=4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), metrics, st.floats(0, 1e6)), max_size=4), st.text(max_size=20))
def test_any_trial_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[float, dict[str, float], float]], reason: str
) -> None:
    evaluations = [
        Evaluation(step, {**others, "val_mean_recall": recall}, seconds)
        for step, (recall, others, seconds) in enumerate(found)
    ]
    trial = written(tmp_path_factory.mktemp("trials"), *evaluations, state="failed", reason=reason)
    again = Trial.read(trial.folder)
    assert (again.reason, repr(again.evaluations)) == (reason, repr(evaluations))  # not a number equals none


def test_an_evaluation_of_a_known_step_is_left_out(tmp_path: Path) -> None:
    trial = written(tmp_path, evaluated(2, 5.0))
    assert not trial.add(evaluated(2, 9.0)) and not trial.add(evaluated(0, 9.0))
    assert Trial.read(trial.folder).evaluations == [evaluated(2, 5.0)]


def test_a_last_line_without_an_end_is_dropped_from_the_file_on_request_alone(tmp_path: Path) -> None:
    trial = written(tmp_path, evaluated(0, 1.0))
    file = trial.folder / "evaluations.jsonl"
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"outer_step": 2, "met')
    before = file.read_bytes()
    assert Trial.read(trial.folder).evaluations == [evaluated(0, 1.0)] and file.read_bytes() == before
    assert Trial.read(trial.folder, repair=True).evaluations == [evaluated(0, 1.0)]
    assert file.read_text() == before.decode().partition("\n")[0] + "\n"


def test_a_newer_format_and_one_of_no_version_are_refused(tmp_path: Path) -> None:
    trial = written(tmp_path)
    file = trial.folder / "trial.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(StoreError, match=f"{file}: the record of a trial in format 2.*reads format 1\nNext: pip"):
        Trial.read(trial.folder)
    del values["format"]
    file.write_text(json.dumps(values))
    with pytest.raises(StoreError, match="names no version of its format: an earlier release wrote it"):
        Trial.read(trial.folder)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "EOF while parsing"),
        ('{"outer_step": 4}', "metrics"),
        ('{"outer_step": "4", "metrics": {"val_mean_recall": 1.0}, "search_seconds": 1.0}', "outer_step"),
        ('{"outer_step": 4, "metrics": {"val_mean_recall": NaN}, "search_seconds": 1.0}', "no val_mean_recall"),
        ('{"outer_step": 4, "metrics": {}, "search_seconds": 1.0}', "no val_mean_recall"),
    ],
)
def test_a_damaged_evaluation_is_named(line: str, why: str, tmp_path: Path) -> None:
    trial = written(tmp_path, evaluated(0, 1.0))
    file = trial.folder / "evaluations.jsonl"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(StoreError, match=r"evaluations.jsonl: not readable as the record of a trial") as refused:
        Trial.read(trial.folder)
    assert why in str(refused.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_other_content_is_a_trial_or_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    trial = written(tmp_path_factory.mktemp("trials"), evaluated(0, 5.0))
    name = data.draw(st.sampled_from(["trial.json", "evaluations.jsonl"]))
    file = trial.folder / name
    file.write_bytes(data.draw(mutated(json.loads(file.read_text()))) + b"\n")
    try:
        again = Trial.read(trial.folder)
    except StoreError as error:
        assert str(file) in str(error) and "\nNext: " in str(error)
    else:
        assert all(math.isfinite(evaluation.recall) for evaluation in again.evaluations)
        assert again.state in ("running", "finished", "stopped", "failed") and isinstance(again.number, int)


def test_a_folder_that_holds_another_trial_is_refused(tmp_path: Path) -> None:
    trial = written(tmp_path)
    trial.folder.rename(tmp_path / "trial_004")
    with pytest.raises(StoreError, match="it is that of trial_003"):
        Trial.read(tmp_path / "trial_004")


def test_the_best_trial_has_the_highest_recall_and_did_not_fail() -> None:
    trials = [of(0, 1.0, 9.0), of(1, 3.0, 9.0, 2.0), of(2, 50.0, state="failed"), of(3), of(4, 9.5, state="running")]
    assert [trial.number for trial in best_first(trials)] == [4, 0, 1]
    assert best_of(trials) is trials[4] and best_of(trials[:2]) is trials[0] and best_of([trials[2], trials[3]]) is None
    assert [trial.number for trial in in_order_of_recall(trials)] == [2, 4, 0, 1, 3]


def test_the_best_evaluation_is_the_earliest_of_equal_ones() -> None:
    trial = of(0, 1.0, 5.0, 5.0)
    assert trial.best is not None and trial.best.outer_step == 2 and trial.value() == 5.0
    assert trial.value("drift") is None and of(1).value() is None


def test_seconds_are_those_that_were_measured() -> None:
    trial = of(0, 1.0)
    assert trial.seconds is None and of(1).seconds is None
    trial.evaluations.append(evaluated(2, 0.5, seconds_matching=3.0, seconds_evaluating=1.0))
    assert trial.seconds == 4.0
    assert trial.evaluations[-1].numbers()["search_seconds"] == 1.0
