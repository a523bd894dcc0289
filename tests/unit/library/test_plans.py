"""Dry runs of evaluate and coreset state everything that would be trained."""

from pathlib import Path

import pytest
import yaml
from helpers.cli import last_object, run
from helpers.studies import TINY_STUDY
from helpers.tasks import load, random_trajectory

from rayvldd.config.study import Study
from rayvldd.library.scoring import words_of_bound, words_of_rates

GRID = {"learning_rates": [0.1, 0.2], "momentums": [0.0, 0.9], "decays": ["none"], "batch_sizes": [8], "epochs": [1]}


def with_evaluation(**values: object) -> Study:
    return Study.model_validate({**TINY_STUDY, "evaluation": {**TINY_STUDY["evaluation"], **values}})


@pytest.mark.parametrize(("num_students", "models"), [(1, 1), (5, 3)])
def test_the_bound_has_a_model_by_each_recipe_and_up_to_three_more(num_students: int, models: int) -> None:
    words = words_of_bound(with_evaluation(full_data=GRID), num_students)
    assert words.startswith(f"4 to choose a recipe, one by each, then {models} by the best one")


def test_rates_that_are_tried_are_named() -> None:
    assert words_of_rates(with_evaluation(lr_coreset=[0.1])) == "0.1"
    assert words_of_rates(with_evaluation(lr_coreset=[0.1, 1.0])).startswith("the best of 0.1, 1 on validation")
    decays = {"weight_decay_coreset": [0.0, 0.01]}
    words = words_of_rates(with_evaluation(lr_coreset=[0.1], **decays))
    assert words.startswith("the best of 0.1 with weight decay 0, 0.01 on validation")
    assert (
        words_of_rates(with_evaluation(lr_coreset=[0.1], weight_decay_coreset=[0.01])) == "0.1 with weight decay 0.01"
    )


def test_dry_runs_name_the_models_of_all_pairs_and_the_coresets(tmp_path: Path, tiny_cache: Path) -> None:
    from rayvldd.distillation.loop import OuterLoop

    study = with_evaluation(full_data=GRID)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json")), encoding="utf-8")
    options = ("--workspace", tmp_path / "workspace", "--dry-run", "--json", "--students", "5")
    plan = last_object(run("coreset", file, *options))["plan"]
    assert plan["models_of_all_pairs"].startswith("4 to choose a recipe, one by each, then 3 by the best one")
    assert last_object(run("coreset", file, *options, "--no-full-data"))["plan"]["models_of_all_pairs"] == "none"
    task = load(study, tiny_cache)
    OuterLoop(task.study, task, [random_trajectory(task.model)], seed=0).distilled_set().save(tmp_path / "made")
    encoder = study.model.image_encoder.name
    planned = last_object(run("evaluate", tmp_path / "made", *options, "--coresets", "random"))
    (settings,), plan = planned["settings"], planned["plan"]
    assert Study.model_validate(settings).evaluation == study.evaluation
    assert plan[f"{tmp_path / 'made'} on {encoder}"] == "5 students, scored on val"
    assert plan[f"random on {encoder}"].startswith("5 students on 4 real pairs each; learning rate: ")
    assert plan[f"models of all pairs on {encoder}"].startswith("4 to choose a recipe")
