"""Points, stops and pauses that other commands request of a study, running or stopped."""

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from helpers.cli import last_object, run
from helpers.searches import evaluated, with_search

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.requests import PausedError, Requests
from rayvldd.hyperparameter_search.strategy import make_strategy
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.trial_log import logging_to
from rayvldd.records.trial import Prediction, Trial

LR, STEPS = "distillation.lr_image", "distillation.trajectory_matching.syn_steps"


def test_a_point_waits_until_its_trial_is_in_the_ledger(tmp_path: Path) -> None:
    requests = Requests(tmp_path / "requests")
    assert requests.take_point("trial_000") is None and not requests.stops("trial_000")
    for rate in (1.0, 2.0, 3.0):
        requests.add_point({LR: rate, "distillation.augmentation": ("color",), "x": None})
    assert [point[LR] for point in requests.waiting_points()] == [1.0, 2.0, 3.0]
    assert requests.take_point("trial_004") == {LR: 1.0, "distillation.augmentation": ("color",), "x": None}
    assert requests.has_point("trial_004") and not requests.has_point("trial_005")
    requests.forget_point("trial_004")
    assert not requests.has_point("trial_004")
    requests.take_point("trial_005")
    requests.take_point("trial_006")
    requests.begin({"trial_005"}, ())  # the driver was killed before trial_006 was in the ledger
    assert [point[LR] for point in Requests(tmp_path / "requests").waiting_points()] == [3.0]


def test_a_file_that_is_no_request_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "point_0").write_text("[1]")
    requests = Requests(tmp_path)
    requests.add_point({LR: 5})
    assert requests.waiting_points() == [{LR: 5}] and requests.take_point("trial_000") == {LR: 5}


def test_a_stop_is_kept_until_its_trial_has_ended(tmp_path: Path) -> None:
    requests = Requests(tmp_path)
    requests.add_stop("trial_003")
    assert not requests.stops("trial_001") and requests.stops("trial_003")
    requests.begin({"trial_001", "trial_003"}, {"trial_001"})  # the driver was killed before trial_003 had ended
    assert requests.stops("trial_003")
    requests.begin({"trial_001", "trial_003"}, {"trial_001", "trial_003"})
    assert not requests.stops("trial_003") and not list(tmp_path.iterdir())


def test_a_pause_is_done_once(tmp_path: Path) -> None:
    requests = Requests(tmp_path)
    requests.add_pause()
    with pytest.raises(PausedError):
        requests.raise_pause()
    requests.raise_pause()
    requests.add_pause()
    requests.begin((), ())
    requests.raise_pause()  # a pause of before the session


def test_requested_points_come_before_those_of_the_study(tiny_study: Study) -> None:
    study = with_search(tiny_study, initial_points=[{LR: 10.0, STEPS: 1}, {LR: 20.0, STEPS: 1}], num_trials=9)
    wanted: list[dict[str, Any]] = [{LR: 7}]
    take = lambda trial_id: wanted.pop(0) if wanted and trial_id != "trial_000" else None  # noqa: E731
    strategy = make_strategy(study, take_point=take)
    proposals = [strategy.propose(()) for _ in range(4)]
    assert [proposal.point[LR] for proposal in proposals[:3]] == [10.0, 7.0, 20.0]
    assert isinstance(proposals[1].point[LR], float) and STEPS in proposals[1].point
    assert [proposal.is_requested for proposal in proposals] == [False, True, False, False]


def test_initial_points_are_not_lost_to_a_request_of_an_earlier_session(tiny_study: Study, tmp_path: Path) -> None:
    study = with_search(tiny_study, initial_points=[{LR: 10.0, STEPS: 1}, {LR: 20.0, STEPS: 1}])
    ledger = StudyFolder(tmp_path).ledger()
    for number, (rate, is_requested) in enumerate(((10.0, False), (7.0, True))):
        ledger.start(number, 1, {LR: rate, STEPS: 1}, is_requested)
        ledger.end(f"trial_00{number}", "failed", "diverged")
    known = StudyFolder(tmp_path).ledger().trials.values()
    assert make_strategy(study, known).propose(known).point[LR] == 20.0


# --- commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_study: Study, tmp_path: Path) -> StudyFolder:
    """A stopped study with one trial that ended and one that was cut off."""
    folder = StudyFolder(tmp_path / "studies" / "tiny")
    with folder.opened(with_search(tiny_study)):
        ledger = folder.ledger()
    for number in range(2):
        ledger.start(number, 1, {LR: 10.0 + number, STEPS: 2})
        ledger.add_evaluation(f"trial_00{number}", evaluated(0, 5.0, 10.0))
        ledger.add_evaluation(f"trial_00{number}", evaluated(2, 7.0 + number, 40.0))
    ledger.end("trial_000", "finished")
    return folder


def test_a_point_is_proposed_to_a_stopped_study(folder: StudyFolder, tmp_path: Path) -> None:
    result = run("propose", "tiny", f"{LR}=300", f"{STEPS}=2", "--workspace", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert last_object(result) == {"study": "tiny", "point": {LR: 300.0, STEPS: 2}, "running": False}
    assert "the point of the next trial, once its sweep command is repeated" in result.output
    assert folder.requests.waiting_points() == [{LR: 300.0, STEPS: 2}]
    with FileLock(folder.root / ".lock"):
        running = run("propose", folder.root, f"{LR}=30", "--workspace", tmp_path, "--dry-run")
    assert "lr_image=30 would be the point of the next trial\n" in running.output
    assert len(folder.requests.waiting_points()) == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["distillation.lr_imag=3"], "'distillation.lr_imag' is not searched (did you mean 'distillation.lr_image'?)"),
        ([f"{LR}=0.5"], "distillation.lr_image=0.5 is outside its domain; allowed: 1 to 1000"),
        ([LR], "has no '='"),
        ([f"{LR}={{a: 1}}"], "is {'a': 1}; allowed: a number"),
        ([f"{LR}=10", f"{STEPS}=2"], "is the point of trial_000, which would not differ: trials share a seed"),
    ],
)
def test_a_point_that_cannot_be_proposed(
    folder: StudyFolder, tmp_path: Path, settings: list[str], expected: str
) -> None:
    result = run("propose", "tiny", *settings, "--workspace", tmp_path)
    assert result.exit_code == 2 and expected in result.output
    assert not folder.requests.waiting_points()


def test_a_point_is_proposed_once(folder: StudyFolder, tmp_path: Path) -> None:
    command = ("propose", "tiny", f"{LR}=300", f"{STEPS}=2", "--workspace", tmp_path)
    assert run(*command).exit_code == 0
    again = run(*command)
    assert again.exit_code == 2 and "is the point of an earlier proposal that waits" in again.output
    assert len(folder.requests.waiting_points()) == 1


def test_a_point_waits_for_a_trial_that_is_left(folder: StudyFolder, tmp_path: Path) -> None:
    for rate in (30, 40):
        assert "the next trial, once" in run("propose", "tiny", f"{LR}={rate}", "--workspace", tmp_path).output
    result = run("propose", "tiny", f"{LR}=50", "--workspace", tmp_path)
    assert "all 4 are taken; its sweep command with --set search.num_trials=5 runs it" in result.output
    folder.result_file.write_text("{}")
    finished = run("propose", "tiny", f"{LR}=60", "--workspace", tmp_path)
    assert "once its sweep command is repeated with --reopen --set search.num_trials=6" in finished.output
    assert len(folder.requests.waiting_points()) == 4


def test_a_trial_is_stopped_and_a_study_paused(folder: StudyFolder, tmp_path: Path) -> None:
    where = ("--workspace", tmp_path)
    assert "trial_001 will be stopped" in run("stop", "tiny", "--trial", "1", *where).output
    assert folder.requests.stops("trial_001")
    assert "trial_000 has ended: finished" in run("stop", "tiny", "--trial", "0", *where).output
    assert "no trial 7; there are: 0 to 1" in run("stop", "tiny", "--trial", "7", *where).output
    assert "study tiny is not running: nothing to pause" in run("pause", "tiny", *where).output
    with FileLock(folder.root / ".lock"):
        assert run("pause", "tiny", *where).exit_code == 0
    with pytest.raises(PausedError):
        folder.requests.raise_pause()


def test_the_log_of_a_trial_has_its_output_and_its_error(folder: StudyFolder, tmp_path: Path) -> None:
    where = ("--workspace", tmp_path, "--json")
    assert "has no log" in run("logs", "tiny", "--trial", "0", *where).output
    with pytest.raises(ZeroDivisionError), logging_to(folder.trials / "trial_000") as log:
        log("step 2: val mean recall 7.00")
        print("printed by \x1b[1mthe trial")
        raise ZeroDivisionError("of rates")
    result = run("logs", "tiny", "--trial", "0", *where)
    text = last_object(result)["log"]
    assert "step 2: val mean recall 7.00" in text and "ZeroDivisionError: of rates" in text
    assert "printed by \\x1b[1mthe trial" in result.output, "control characters are spelt out"
    assert run("logs", "--trial", "0", *where).exit_code == 2


def test_status_shows_the_studies_of_the_workspace(folder: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "studies" / "old").mkdir()
    (tmp_path / "studies" / "old" / "study.json").write_text('{"format": 1, "settings": {"name": 3}}')
    folder.requests.add_point({LR: 30.0})
    stopped = run("status", "--workspace", tmp_path, "--json")
    assert stopped.exit_code == 0, stopped.output
    unreadable, status = last_object(stopped)["studies"]
    assert (unreadable["state"], status["state"], status["ended"], status["total"]) == ("unreadable", "stopped", 1, 4)
    assert (status["best_trial"], status["best_recall"], status["seconds_left"]) == ("trial_001", 8.0, None)
    assert "tiny: 1 proposed points wait for a trial" in stopped.output
    with FileLock(folder.root / ".lock"):
        running = run("status", "--workspace", tmp_path, "--json")
    status = last_object(running)["studies"][1]
    assert status["state"] == "running"
    assert 30 < status["seconds_left"] < 3 * 60, "two steps took 30 s; less than three trials of four are left"
    assert "tiny: trial_001  step 2 of 4: val mean recall 8.00" in running.output
    assert (status["running"][0]["predicted_recall"], "; predicted" in running.output) == (None, False)
    trial = Trial.read(folder.trials / "trial_001")
    trial.prediction = Prediction(recall=9.26, sd=1.5)
    trial.write()
    with FileLock(folder.root / ".lock"):
        predicted = run("status", "--workspace", tmp_path, "--json")
    assert last_object(predicted)["studies"][1]["running"][0]["predicted_recall"] == 9.26
    assert "; predicted 9.3 ± 1.5" in predicted.output
    folder.result_file.write_text("{}")
    assert last_object(run("status", "--workspace", tmp_path, "--json"))["studies"][1]["state"] == "finished"


def test_status_of_an_empty_workspace_names_a_next_command(tmp_path: Path) -> None:
    result = run("status", "--workspace", tmp_path / "none")
    assert result.exit_code == 0
    assert f"No study in {tmp_path / 'none'}" in result.output and "Next: rayvldd sweep" in result.output
