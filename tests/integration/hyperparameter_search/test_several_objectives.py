"""A study with several objectives from end to end."""

from pathlib import Path

import pytest
from helpers.studies import ONE_AT_A_TIME
from rich.console import Console

from rayvldd.config.domains import as_number
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.sweep import sweep
from rayvldd.storage.folder import FolderStorage
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.workspace import Workspace


@pytest.mark.timeout(600)
def test_a_study_of_two_objectives_ends_with_its_front(tiny_study: Study, tmp_path: Path, local_ray: None) -> None:
    values = tiny_study.model_dump(mode="json") | {"resources": ONE_AT_A_TIME}
    values["search"] = {
        "space": {
            "distillation.num_pairs": {"type": "int", "low": 2, "high": 8},
            "distillation.lr_image": {"type": "float", "low": 1.0, "high": 100.0, "log": True},
        },
        "objectives": ["val_mean_recall", "num_pairs"],
        "scheduler": "none",
        "num_trials": 4,
        "num_finalists": 0,
        "initial_points": [{"distillation.num_pairs": 2}],
    }
    study, workspace = Study.model_validate(values), Workspace(tmp_path)
    store, tracker = ExpertStore(FolderStorage(workspace.experts)), FolderTracker(tmp_path / "tracked")
    result = sweep(study, workspace, store, tracker, display=ProgressDisplay(Console(quiet=True)))
    assert [trial.state for trial in result.trials] == ["finished"] * 4
    front = [row.model_dump() for row in result.outcome.front or []]
    smallest = min(as_number(trial.point["distillation.num_pairs"]) for trial in result.trials)
    assert smallest == 2 and min(row["num_pairs"] for row in front) == 2, "no other set has as few pairs"
    best = max(trial.best.recall for trial in result.trials if trial.best)
    assert front[0]["val_mean_recall"] == best == result.outcome.best.val_mean_recall
    assert StudyFolder(workspace.study(study.name)).result_file.is_file()
