"""The small files of a study: read as they were written, and refused with a next command if damaged or newer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.mutated_files import KINDS

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.errors import StoreError, without_next_command
from rayvldd.hyperparameter_search.final_evaluation import evaluate_on_test
from rayvldd.hyperparameter_search.finalists import Finalist, FinalistRun
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.transfer import EarlierStudies, EarlierTrials, keep_earlier_trials, known_points
from rayvldd.records.form import Record
from rayvldd.records.study_choice import FinalistScores, StudyChoice, StudyTest
from rayvldd.records.study_notes import StudyCommands, StudySeconds, UnsentRecords
from rayvldd.records.study_outcome import FinalistOutcome
from rayvldd.records.study_settings import StudySettings
from rayvldd.records.trial import Trial

FILES: dict[str, type[Record]] = {
    "study.json": StudySettings,
    "choice.json": StudyChoice,
    "test.json": StudyTest,
    "earlier_trials.json": EarlierTrials,
    "commands.json": StudyCommands,
    "seconds.json": StudySeconds,
    "unsent.json": UnsentRecords,
    "finalists/trial_000_again_0/scores.json": FinalistScores,
}


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A study with all of these files."""
    KINDS["results"].make(tmp_path)
    folder = StudyFolder(tmp_path / "studies" / "tiny")
    scores = FinalistScores(state="finished", outer_step=2, val_mean_recall=6.5, students=[6.0, 7.0])
    scores.write(folder.finalists / "trial_000_again_0" / "scores.json")
    return folder


def the_finalist(folder: StudyFolder) -> Finalist:
    place = folder.finalists / "trial_000_again_0"
    return Finalist(Trial.read(folder.trials / "trial_000"), (FinalistRun(place.name, {}, 0, 1, place),))


def the_test(folder: StudyFolder, study: Study) -> StudyTest:
    trial = Trial.read(folder.trials / "trial_000")
    return evaluate_on_test(study, trial, folder, folder.root / "cache", ProgressDisplay(), "rayvldd sweep")


READERS: dict[str, list[Callable[[StudyFolder, Study], object]]] = {
    "study.json": [
        lambda folder, study: folder.saved_study(),
        lambda folder, study: folder.check_same(study),
    ],
    "choice.json": [
        lambda folder, study: folder.chosen_sets(),
        lambda folder, study: folder.chosen_trial(),
    ],
    "test.json": [lambda folder, study: the_test(folder, study)],
    "earlier_trials.json": [
        lambda folder, study: keep_earlier_trials(study, folder, EarlierStudies("old", list)),
        lambda folder, study: known_points(study, folder, lambda point: {}),
    ],
    "commands.json": [lambda folder, study: folder.add_command("rayvldd sweep")],
    "seconds.json": [lambda folder, study: folder.seconds()],
    "unsent.json": [lambda folder, study: folder.unsent("none")],
    "finalists/trial_000_again_0/scores.json": [
        lambda folder, study: the_finalist(folder).num_failed,
        lambda folder, study: the_finalist(folder).made(),
    ],
}


def test_the_readers_get_what_was_written(folder: StudyFolder, tiny_study: Study) -> None:
    assert folder.chosen_sets() == [folder.best, folder.finalists / "trial_000_1" / "distilled_set"]
    assert folder.chosen_trial() == "trial_000" and folder.seconds() == {"prepare": 1.5, "search": 20.0}
    assert folder.commands() == ["rayvldd sweep tiny.yaml"] and folder.unsent("none") == ("a picture",)
    assert the_test(folder, tiny_study).seeds == [1, 2]
    assert the_finalist(folder).recalls == [6.5]
    _, left_out = known_points(tiny_study, folder, lambda point: {})
    assert list(left_out) == ["old/trial_000"]
    for name, record in FILES.items():
        file = folder.root / name
        before = file.read_bytes()
        record.read(file).write(file)
        assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda values: {"format": 2, **{name: value for name, value in values.items() if name != "format"}}, "newer"),
        (lambda values: {name: value for name, value in values.items() if name != "format"}, "no version"),
        (lambda values: {name: [None] for name in values} | {"format": 1}, "not readable as"),
        (lambda values: [], "not readable as"),
        (lambda values: None, "not readable as"),
    ],
    ids=["newer", "without a version", "other values", "no object", "empty"],
)
@pytest.mark.parametrize("name", FILES)
def test_other_files_are_refused_by_every_reader(
    name: str, change: Callable[[object], object], problem: str, folder: StudyFolder, tiny_study: Study
) -> None:
    file = folder.root / name
    values = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text("" if values is None else json.dumps(values), encoding="utf-8")
    for reader in READERS[name]:
        with pytest.raises(StoreError, match=problem) as refused:
            reader(folder, tiny_study)
        assert without_next_command(refused.value).startswith(f"{file}: ") and refused.value.next_command


def test_settings_of_another_study_are_refused(folder: StudyFolder) -> None:
    StudySettings(settings={"name": "tiny", "seed": "first"}).write(folder.settings)
    with pytest.raises(StoreError, match="not readable as the settings of a study: seed: ") as refused:
        folder.saved_study()
    assert refused.value.next_command == StudySettings.remedy


@pytest.mark.parametrize("values", [{"state": "finished"}, {"state": "failed"}, {"state": "running"}])
def test_scores_have_what_their_state_requires(values: dict[str, str], folder: StudyFolder) -> None:
    file = folder.finalists / "trial_000_again_0" / "scores.json"
    file.write_text(json.dumps({"format": 1, **values}))
    with pytest.raises(StoreError, match="not readable as the scores of a finalist's set"):
        FinalistScores.read(file)


def test_the_recall_of_a_choice_is_that_of_its_finalist(folder: StudyFolder) -> None:
    choice = StudyChoice.read(folder.choice)
    assert choice.val_mean_recall == 7.0, "without finalists that of the search"
    finalist = FinalistOutcome(
        trial_id="trial_000",
        config={},
        search_val_mean_recall=7.0,
        val_mean_recall=6.5,
        val_interval=None,
        sets=[],
    )
    assert choice.model_copy(update={"finalists": [finalist]}).val_mean_recall == 6.5
