"""Which stages of a study run, and in which order."""

from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from helpers.searches import evaluated, with_search
from helpers.sets import write_card
from rich.console import Console

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search import stages
from rayvldd.hyperparameter_search.stages import STAGES, Finalists, Stage, StudySession, run_stages
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.set_card import CARD
from rayvldd.records.study_choice import FinalistScores
from rayvldd.storage.folder import FolderStorage
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.workspace import Workspace


@pytest.fixture
def session(tiny_study: Study, tmp_path: Path) -> StudySession:
    workspace, folder = Workspace(tmp_path), StudyFolder(tmp_path / "study")
    folder.root.mkdir()
    store, tracker = ExpertStore(FolderStorage(workspace.experts)), FolderTracker(tmp_path / "tracked")
    display = ProgressDisplay(Console(quiet=True))
    return StudySession(tiny_study, workspace, store, folder, tracker, display, None, "rayvldd sweep")


def missing(session: StudySession) -> list[str]:
    return [stage.name for stage in (make(session) for make in STAGES) if not stage.is_done()]


def test_a_new_study_runs_every_stage(session: StudySession) -> None:
    assert missing(session) == ["prepare", "experts", "search", "finalists", "test"]


def test_a_study_whose_methods_need_no_experts_skips_that_stage(
    session: StudySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "requires_experts", False)
    assert missing(session) == ["prepare", "search", "finalists", "test"]


def test_a_chosen_study_is_tested_and_a_tested_one_runs_nothing(session: StudySession) -> None:
    session.folder.choice.write_text("{}")
    assert missing(session) == ["test"]
    session.folder.test.write_text("{}")
    assert missing(session) == []


def test_a_set_is_chosen_without_its_pictures(session: StudySession, tiny_study: Study) -> None:
    session.study = with_search(tiny_study, num_finalists=1, finalist_seeds=2)
    trial = session.ledger.start(0, 1, {"distillation.lr_image": 10.0})
    session.ledger.add_evaluation(trial.trial_id, evaluated(2, 7.0))
    session.ledger.end(trial.trial_id, "finished")
    for number in range(2):
        again = session.folder.finalists / f"trial_000_again_{number}"
        write_card(again / "distilled_set" / CARD)
        scores = FinalistScores(state="finished", outer_step=2, val_mean_recall=6.5 + number, students=[6.5])
        scores.write(again / "scores.json")

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    told = StringIO()
    pictures: Any = SimpleNamespace(draw_set=fail)
    expert_sets: Any = SimpleNamespace(at=lambda point: SimpleNamespace(train=None))
    session.display = ProgressDisplay(Console(file=told, width=500), quiet=True)
    session.illustrator, session.expert_sets = pictures, expert_sets
    Finalists(session)._choose()
    assert session.folder.chosen_trial() == "trial_000" and (session.folder.best / CARD).is_file()
    assert told.getvalue() == f"{again / 'distilled_set'}: no pictures of it: No space left on device\n"


def test_stages_run_in_order_and_their_seconds_are_noted(
    session: StudySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def stage(title: str, done: bool = False, fails: bool = False) -> type[Stage]:
        class Made(Stage):
            name: ClassVar[str] = title

            def is_done(self) -> bool:
                return done

            def run(self) -> None:
                ran.append(title)
                if fails:
                    raise KeyboardInterrupt

        return Made

    monkeypatch.setattr(stages, "STAGES", (stage("a"), stage("b", done=True), stage("c", fails=True), stage("d")))
    with pytest.raises(KeyboardInterrupt):
        run_stages(session)
    assert ran == ["a", "c"] and set(session.folder.seconds()) == {"a", "c"}
