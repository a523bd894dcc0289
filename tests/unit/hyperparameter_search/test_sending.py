"""Missing records of a finished study are sent again, to the tracker that lacks them."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from helpers.mutated_files import KINDS
from helpers.studies import TINY_STUDY

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.errors import RayvlddError
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search import sweep as module
from rayvldd.hyperparameter_search.recorder import Recorder, StudyRun
from rayvldd.hyperparameter_search.sending import send_again
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.study_choice import FinalistScores
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.trial import Trial
from rayvldd.storage.folder import FolderStorage
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.tracking.protocol import Origins
from rayvldd.workspace import Workspace

MISSING = ("the artifacts of trial_000: Permission denied",)


class Refusing(FolderTracker):
    """Writes files, except for artifacts as long as there are no rights."""

    has_rights = False

    @property
    def missing(self) -> tuple[str, ...]:
        return () if self.has_rights else MISSING


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A finished study with two trials, whose tracker lacks an artifact."""
    KINDS["results"].make(tmp_path)
    folder = StudyFolder(tmp_path / "studies" / "tiny")
    for place in folder.trials.iterdir():
        trial = Trial.read(place)
        trial.state = "finished"
        trial.write()
    return folder


def sent(folder: StudyFolder, tracker: Refusing) -> tuple[str, ...]:
    result = folder.result()
    assert result is not None
    return send_again(Study.model_validate(TINY_STUDY), folder, tracker, result, "sweep tiny.yaml", ProgressDisplay())


def test_nothing_is_sent_unless_something_is_missing_in_the_same_tracker(folder: StudyFolder, tmp_path: Path) -> None:
    tracker = Refusing(tmp_path / "records")
    assert sent(folder, tracker) == ()
    folder.note_unsent("sqlite:///elsewhere.db", MISSING)
    assert sent(folder, tracker) == ()
    assert not (tmp_path / "records").exists()


def test_everything_is_sent_until_nothing_is_missing(folder: StudyFolder, tmp_path: Path) -> None:
    tracker = Refusing(tmp_path / "records")
    folder.note_unsent(tracker.uri, MISSING)
    assert sent(folder, tracker) == MISSING
    assert folder.unsent(tracker.uri) == MISSING
    tracker.has_rights = True
    assert sent(folder, tracker) == ()
    assert folder.unsent(tracker.uri) == ()
    for name in ("trial_000", "trial_001"):
        lines = (tmp_path / "records" / "trials" / f"{name}.jsonl").read_text()
        assert '"event": "start"' in lines and '"state": "finished"' in lines and '"data": "0"' in lines
        assert lines.count('"val_mean_recall": 7.0') == 1, "no evaluation is written twice"
    assert '"test_mean_recall": 10.0' in (tmp_path / "records" / "study.jsonl").read_text()


def test_a_tracker_that_still_refuses_does_not_hide_the_result(folder: StudyFolder, tmp_path: Path) -> None:
    class Closed(Refusing):
        def start_study(self, *_: Any, **__: Any) -> None:
            raise RayvlddError("no rights", next_command="ask for them")

    tracker = Closed(tmp_path / "records")
    folder.note_unsent(tracker.uri, MISSING)
    assert sent(folder, tracker) == MISSING
    assert folder.unsent(tracker.uri) == MISSING


def test_finalists_and_the_course_of_the_best_recall_are_sent_too(folder: StudyFolder, tmp_path: Path) -> None:
    scores = FinalistScores(state="finished", outer_step=2, val_mean_recall=6.5)
    for number in range(2):
        place = folder.finalists / f"trial_001_again_{number}"
        scores.write(place / "scores.json")
    result = folder.result()
    assert result is not None
    row = {"trial_id": "trial_001", "config": {}, "search_val_mean_recall": 7.0, "val_mean_recall": 6.5}
    row |= {
        "val_interval": None,
        "sets": [{"name": "trial_001_again_0", "seed": 1, **scores.model_dump()}],
    }
    result = type(result).model_validate({**result.as_json(), "finalists": [row]}, strict=False)
    study = Study.model_validate(TINY_STUDY).override({"search.finalist_seeds": 2})
    tracker = Refusing(tmp_path / "records")
    tracker.has_rights = True
    folder.note_unsent(tracker.uri, MISSING)
    assert send_again(study, folder, tracker, result, "sweep tiny.yaml", ProgressDisplay()) == ()
    again = (tmp_path / "records" / "trials" / "trial_001_again_0.jsonl").read_text()
    assert '"val_mean_recall": 6.5' in again and '"finalist": "trial_001"' in again
    events = [json.loads(line) for line in (tmp_path / "records" / "study.jsonl").read_text().splitlines()]
    curve = [event for event in events if event["event"] == "metrics"]
    assert [(event["step"], event["metrics"]) for event in curve] == [
        (1, {"best_val_mean_recall": 7.0}),
        (2, {"best_val_mean_recall": 7.0}),
    ]


def test_a_session_that_begins_after_the_choice_sends_what_the_one_before_did_not(
    folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker with a queue may lack trials of a session that was killed in its test."""
    folder.result_file.unlink()
    monkeypatch.setattr(module, "start_ray", lambda *_: nullcontext())
    monkeypatch.setattr(module, "run_stages", lambda _: None)
    monkeypatch.setattr(module, "_finish", lambda *_: None)
    records = tmp_path / "records"
    before = FolderTracker(records)
    before.start_study(Study.model_validate(TINY_STUDY), "sweep tiny.yaml")
    before.start_trial("trial_000", {})
    before.log_origins("trial_000", Origins({"data": "0", "image_encoder": "1", "text_encoder": "2"}, "experts"))

    def session() -> dict[str, str]:
        study, store = Study.model_validate(TINY_STUDY), ExpertStore(FolderStorage(tmp_path / "experts"))
        module.sweep(study, folder.workspace, store, FolderTracker(records), display=ProgressDisplay())
        return {file.name: file.read_text() for file in (records / "trials").iterdir()}

    sent = session()
    for name in ("trial_000.jsonl", "trial_001.jsonl"):
        assert '"state": "finished"' in sent[name] and '"val_mean_recall": 7.0' in sent[name]
    assert sent["trial_000.jsonl"].count('"event": "origins"') == 1, "its experts, which no card names, are known"
    assert session() == sent, "nothing is written twice"


def test_a_search_that_goes_on_sends_the_course_of_the_best_recall(folder: StudyFolder, tmp_path: Path) -> None:
    study, tracker = Study.model_validate(TINY_STUDY), FolderTracker(tmp_path / "records")
    (folder.trials / "trial_000" / "evaluations.jsonl").unlink()  # the first trial has no recall
    ledger = folder.ledger()
    tracker.start_study(study, "sweep tiny.yaml")
    inputs: Any = None  # of pictures, which are not drawn
    for _ in range(2):
        Recorder(StudyRun(study, ledger, tracker, ProgressDisplay(), None, inputs)).resend_ended()
    curve = [json.loads(line) for line in (tmp_path / "records" / "study.jsonl").read_text().splitlines()]
    assert [(event["step"], event["metrics"]) for event in curve] == [(2, {"best_val_mean_recall": 7.0})]


def test_what_the_database_of_the_workspace_lacks_is_known_after_a_move(folder: StudyFolder, tmp_path: Path) -> None:
    workspace = folder.workspace
    folder.note_unsent(workspace.tracking_uri, MISSING)
    assert folder.unsent(workspace.tracking_uri) == MISSING
    moved = workspace.root.rename(tmp_path.with_name(f"{tmp_path.name} moved"))
    there = StudyFolder(moved / "studies" / "tiny")
    assert there.unsent(there.workspace.tracking_uri) == MISSING
    assert there.unsent(workspace.tracking_uri) == (), "the former one is another database now"


def test_the_result_of_a_moved_study_names_the_tracker_there(folder: StudyFolder) -> None:
    """Also of a copy, while the first one is still at its place."""
    result = StudyOutcome.read(folder.result_file)
    before, now = Workspace("/before"), folder.workspace

    def shown(uri: str) -> str:
        places = {"distilled_set": str(before.study("tiny") / "best"), "tracking_uri": uri}
        result.model_copy(update=places).write(folder.result_file)
        found = folder.result()
        assert found is not None
        return found.tracking_uri

    assert shown(before.tracking_uri) == before.tracking_uri, "it was not moved along"
    now.database.touch()
    assert shown(before.tracking_uri) == now.tracking_uri
    folder.store_mark.touch()
    assert shown(before.tracking_uri) == before.tracking_uri, "a store has the study without the database"
    files = before.study("tiny") / "tracking"
    assert shown(files.as_uri()) == (folder.root / "tracking").as_uri()
    for elsewhere in ("sqlite:////elsewhere/mlflow.db", "http://host:5000", f"{before.study('tiny').as_uri()}_2/x", ""):
        assert shown(elsewhere) == elsewhere
