"""Export of a study's trials: Optuna reads the journal, and the tables have every evaluation."""

import csv
from pathlib import Path

import optuna
import pytest
from helpers.cli import last_object, run
from helpers.searches import evaluated, with_search

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.errors import StoreError
from rayvldd.hyperparameter_search.study_exports import EVALUATIONS_TABLE, JOURNAL, TRIALS_TABLE, export_study
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.trial import Ended

LR, AUGMENTATION = "distillation.lr_image", "distillation.augmentation"
SPACE = {
    LR: {"type": "float", "low": 1.0, "high": 100.0, "log": True},
    AUGMENTATION: {"type": "choice", "values": [[], ["color", "crop"]]},
    "distillation.outer_optimiser": {"type": "choice", "values": ["sgd", "adam"], "when": {AUGMENTATION: [[]]}},
}
ENDS: tuple[Ended | None, ...] = ("finished", "stopped", "failed", None)


@pytest.fixture
def folder(tiny_study: Study, tmp_path: Path) -> StudyFolder:
    """A study with four trials in different states."""
    study, folder = with_search(tiny_study, space=SPACE), StudyFolder(tmp_path / "studies" / "tiny")
    with folder.opened(study):
        ledger = folder.ledger()
    for number, state in enumerate(ENDS):
        point: dict[str, SettingValue] = {LR: 10.0 + number, AUGMENTATION: ("color", "crop")}
        point |= {} if number else {AUGMENTATION: (), "distillation.outer_optimiser": "sgd"}
        trial = ledger.start(number, 7, point)
        for step, recall in ((0, 3.0), (2, 9.0 + number), (4, 8.0)):
            seconds = {"seconds_matching": 1.5 * step, "seconds_evaluating": 1.0}
            ledger.add_evaluation(trial.trial_id, evaluated(step, recall, 1.0 + step, **seconds))
        if state:
            ledger.end(trial.trial_id, state, "diverged" if state == "failed" else "")
    return folder


def test_optuna_opens_the_journal(folder: StudyFolder, tmp_path: Path) -> None:
    (file,) = export_study(folder, tmp_path / "journal", "optuna")
    assert file == tmp_path / "journal" / JOURNAL
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    study = optuna.load_study(study_name="tiny", storage=optuna.storages.JournalStorage(backend))
    assert study.metric_names == ["val_mean_recall"] and study.best_value == 9.0
    trials = study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert [trial.user_attrs["reason"] for trial in trials] == ["", "", "diverged", ""]
    assert all(trial.intermediate_values == {0: 3.0, 2: 9.0 + n, 4: 8.0} for n, trial in enumerate(trials))
    assert trials[0].params == {LR: 10.0, AUGMENTATION: "[]", "distillation.outer_optimiser": "sgd"}
    assert trials[1].params == {LR: 11.0, AUGMENTATION: '["color", "crop"]'}
    assert trials[0].duration is not None and trials[0].duration.total_seconds() == pytest.approx(7.0)


def test_several_objectives_are_values_of_the_journal(tiny_study: Study, tmp_path: Path) -> None:
    space = {"distillation.num_pairs": {"type": "int", "low": 2, "high": 4}}
    objectives = ["val_mean_recall", "num_pairs"]
    study = with_search(tiny_study, space=space, objectives=objectives, scheduler="none")
    folder = StudyFolder(tmp_path / "tiny")
    with folder.opened(study):
        ledger = folder.ledger()
    ledger.start(0, 1, {"distillation.num_pairs": 3})
    ledger.add_evaluation("trial_000", evaluated(0, 5.0))
    ledger.end("trial_000", "finished")
    (file,) = export_study(folder, tmp_path / "journal", "optuna")
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    loaded = optuna.load_study(study_name="tiny", storage=optuna.storages.JournalStorage(backend))
    assert (loaded.metric_names, loaded.trials[0].values) == (objectives, [5.0, 3.0])
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_the_tables_have_every_trial_and_every_evaluation(folder: StudyFolder, tmp_path: Path) -> None:
    export_study(folder, tmp_path / "tables", "csv")
    with (tmp_path / "tables" / TRIALS_TABLE).open(encoding="utf-8") as file:
        trials = list(csv.DictReader(file))
    assert [row["state"] for row in trials] == ["finished", "stopped", "failed", "running"]
    assert [row["val_mean_recall"] for row in trials] == ["9.0", "10.0", "11.0", "12.0"]
    assert [row["best_outer_step"] for row in trials] == ["2"] * 4
    assert [row[AUGMENTATION] for row in trials] == ["[]", *['["color", "crop"]'] * 3]
    assert [row["distillation.outer_optimiser"] for row in trials] == ["sgd", "", "", ""]
    with (tmp_path / "tables" / EVALUATIONS_TABLE).open(encoding="utf-8") as file:
        evaluations = list(csv.DictReader(file))
    assert len(evaluations) == 12
    assert [float(row["val_mean_recall"]) for row in evaluations[:3]] == [3.0, 9.0, 8.0]
    assert evaluations[0]["seconds_matching"] == "0.0"


def test_a_folder_with_files_is_left_alone(folder: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(StoreError, match="not free for an export: it holds"):
        export_study(folder, tmp_path / "full", "csv")
    dry = run("export", "tiny", tmp_path / "full", "--format", "csv", "--workspace", tmp_path, "--dry-run")
    assert dry.exit_code == 2 and "not free for an export: it holds mine.txt" in dry.output
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_the_command_finds_the_study_by_name(folder: StudyFolder, tmp_path: Path) -> None:
    target, common = tmp_path / "out", ("--format", "csv", "--workspace", tmp_path, "--json")
    result = run("export", "tiny", target, *common)
    assert result.exit_code == 0, result.output
    assert last_object(result)["files"] == [str(target / TRIALS_TABLE), str(target / EVALUATIONS_TABLE)]
    wrong = run("export", "tini", *common)
    assert wrong.exit_code == 2 and "no study 'tini' (did you mean 'tiny'?)" in wrong.output
    without = run("export", "tiny", "--workspace", tmp_path)
    assert without.exit_code == 2 and "Missing argument 'FOLDER'" in without.output
