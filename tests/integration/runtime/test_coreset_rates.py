"""The learning rate of students on real pairs is the best one on validation."""

from pathlib import Path
from statistics import fmean

import pytest
from helpers.tasks import StudyTask, load

from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation.students import evaluate_pairs
from rayvldd.randomness import student_seeds
from rayvldd.runtime.evaluation import StudentSpec, choose_rates, evaluate_in_parallel


def test_the_rate_is_the_best_one_on_validation(kept_actors: None, tiny_study: Study, tmp_path: Path) -> None:
    rates = (1e-6, 0.2, 5.0)
    study = tiny_study.at({"evaluation.lr_coreset": rates})
    task: StudyTask = load(study, tmp_path)
    coresets = [[choose_coreset(task, "random", number, seed) for seed in (1, 2, 3)] for number in (4, 30)]
    seeds, expected = student_seeds(study.seed, 2), []
    for of_size in coresets:
        recalls = [
            fmean(
                evaluate_pairs(task, coreset.pairs(task, rate), task.val, study.evaluation, [seed])[0].mean_recall
                for coreset, seed in zip(of_size, seeds, strict=False)
            )
            for rate in rates
        ]
        expected.append((rates[recalls.index(max(recalls))], max(recalls)))
    told: list[tuple[int, int, float]] = []
    found = choose_rates(study, tmp_path, coresets, lambda *news: told.append(news))
    assert [choice.learning_rate for choice in found] == [rate for rate, _ in expected]
    assert [choice.val_mean_recall for choice in found] == pytest.approx([recall for _, recall in expected])
    assert told[-1] == (12, 12, 1.0) and found[0].words.endswith(" of 3")


def test_the_weight_decay_is_chosen_with_the_rate(kept_actors: None, tiny_study: Study, tmp_path: Path) -> None:
    grid = {"evaluation.lr_coreset": (0.05, 0.3), "evaluation.weight_decay_coreset": (0.0, 0.5)}
    study = tiny_study.at(grid)
    task: StudyTask = load(study, tmp_path)
    coreset, (seed,) = choose_coreset(task, "random", 30, 1), student_seeds(study.seed, 1)
    recalls = {
        (rate, decay): evaluate_pairs(
            task,
            coreset.pairs(task, rate),
            task.val,
            study.evaluation.model_copy(update={"weight_decay": decay}),
            [seed],
        )[0].mean_recall
        for rate in grid["evaluation.lr_coreset"]
        for decay in grid["evaluation.weight_decay_coreset"]
    }
    assert len(set(recalls.values())) == 4, "the tried pairs differ"
    (found,) = choose_rates(study, tmp_path, [[coreset]])
    assert (found.learning_rate, found.weight_decay) == max(recalls, key=recalls.__getitem__)
    assert found.val_mean_recall == pytest.approx(max(recalls.values()))
    assert found.words == f"{found.learning_rate:g} with weight decay {found.weight_decay:g} of 4"
    score = [StudentSpec(coreset, seed, rate, decay) for rate, decay in recalls]
    assert [one.mean_recall for one in evaluate_in_parallel(study, tmp_path, score, "val")] == pytest.approx(
        list(recalls.values())
    )


def test_a_single_rate_needs_no_students(tiny_study: Study, tmp_path: Path) -> None:
    task: StudyTask = load(tiny_study, tmp_path)
    coreset = choose_coreset(task, "random", 4, 0)
    (found,) = choose_rates(tiny_study, tmp_path, [[coreset]])
    assert (found.learning_rate, found.val_mean_recall, found.words) == (0.1, None, "0.1")
