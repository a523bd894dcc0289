"""What the test evaluation of a study records beside its scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.studies import TINY_STUDY
from PIL import Image
from rich.console import Console

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation.recall import RetrievalRanks
from rayvldd.hyperparameter_search import final_evaluation
from rayvldd.hyperparameter_search.final_evaluation import evaluate_on_test
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.full_data import FullDataChoice, FullDataRecipe, TriedRecipe
from rayvldd.records.study_choice import StudyTest
from rayvldd.records.trial import Trial
from rayvldd.runtime.evaluation import StudentScores, StudentSpec

NUM_IMAGES = {"train": 7, "val": 3, "test": 3}


class RealPairs:
    """Stands for the chosen set: two real pairs."""

    def __len__(self) -> int:
        return 2

    def pairs(self, task: RetrievalTask) -> Any:
        return choose_coreset(task, "random", 2, 0)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study of a folder of grey images."""
    root, lines = tmp_path / "photos", []
    (root / "images").mkdir(parents=True)
    for split, count in NUM_IMAGES.items():
        for number in range(count):
            name = f"{split}_{number}.png"
            Image.new("RGB", (16, 16), (30 * number, 99, 7 * len(split))).save(root / "images" / name)
            lines.append(json.dumps({"image": name, "captions": [f"grey {split} {number}"], "split": split}))
    (root / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return Study.model_validate({**TINY_STUDY, "data": {"source": "folder", "root": str(root), "image_size": 16}})


@pytest.fixture
def no_students(monkeypatch: pytest.MonkeyPatch) -> None:
    """No student is trained: each ranks the right answer first."""
    values: dict[str, Any] = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "decay": "none"}
    recipe = FullDataRecipe(**values, batch_size=4, epochs=1, captions_per_image="one")
    choice = FullDataChoice(key="key", tried=(TriedRecipe(recipe=recipe, val_mean_recall=50.0),))
    ranks = RetrievalRanks(np.ones(NUM_IMAGES["test"], int), np.ones(NUM_IMAGES["test"], int))

    def random_pairs(
        point: Study, task: RetrievalTask, cache: Path, num_pairs: int, seeds: list[int], *_: object
    ) -> tuple[list[StudentSpec], ChosenRate]:
        specs = [StudentSpec(choose_coreset(task, "random", num_pairs, seed), seed) for seed in seeds]
        return specs, ChosenRate(learning_rate=0.1, val_mean_recall=None, num_rates=1)

    def scores(point: Study, cache: Path, jobs: list[StudentSpec], *_: object) -> list[StudentScores]:
        return [StudentScores(ranks, {}) for _ in jobs]

    monkeypatch.setattr(final_evaluation, "choose_recipe", lambda *_: choice)
    monkeypatch.setattr(final_evaluation, "_on_random_pairs", random_pairs)
    monkeypatch.setattr(final_evaluation, "score_in_parallel", scores)
    monkeypatch.setattr(final_evaluation.DistilledSet, "load", lambda place: RealPairs())
    monkeypatch.setattr(StudyFolder, "chosen_sets", lambda folder: [folder.best])


@pytest.mark.usefixtures("no_students")
def test_the_number_of_training_images_of_a_folder_is_recorded(study: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    folder.root.mkdir()
    trial = Trial(trial_id="trial_000", number=0, seed=1, point={}, folder=folder.trials / "trial_000")
    display = ProgressDisplay(Console(quiet=True))
    tested = evaluate_on_test(study, trial, folder, tmp_path / "cache", display, "rayvldd sweep")
    assert (tested.num_pairs, tested.num_train_images) == (2, NUM_IMAGES["train"])
    assert StudyTest.read(folder.test) == tested
