"""The full-data bound is chosen on validation and paid once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tasks import StudyTask, load
from rich.console import Console

import rayvldd.runtime.evaluation
import rayvldd.runtime.full_data
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.evaluation.full_data import recipes_of, train_on_all
from rayvldd.evaluation.metric import RetrievalRecall
from rayvldd.evaluation.probes import Probe, in_memory
from rayvldd.evaluation.scoring import ranks, score
from rayvldd.randomness import student_seeds
from rayvldd.runtime.evaluation import StudentSpec, score_in_parallel
from rayvldd.runtime.full_data import choose_recipe, kept_ranks


@pytest.fixture
def problem(tiny_study: Study, tiny_cache: Path) -> StudyTask:
    return load(tiny_study, tiny_cache)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of floats depend on the number of threads, and an actor has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nothing_to_do(items: Sequence[object], *_: object, **__: object) -> list[object]:
    assert not items, "trained again"
    return []


def test_the_bound_is_paid_once(
    kept_actors: None,
    one_thread: None,
    tiny_study: Study,
    problem: StudyTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (tmp_path / "out.txt").open("w") as out:
        display = ProgressDisplay(Console(file=out, width=200))
        seconds: list[float] = []
        choice = choose_recipe(
            tiny_study, tmp_path, problem.fingerprints, display, on_trained=lambda took: seconds.append(took)
        )
        assert len(seconds) == len(recipes_of(tiny_study.evaluation)) and min(seconds) > 0
        seed = student_seeds(tiny_study.seed, 1)[0]
        models = [train_on_all(problem, recipe, tiny_study.seed, seed) for recipe in recipes_of(tiny_study.evaluation)]
        assert [tried.val_mean_recall for tried in choice.tried] == [
            score(problem, model, problem.val).mean_recall for model in models
        ]
        probe = Probe("other images", RetrievalRecall(), in_memory(problem.val), "identity")
        jobs = [StudentSpec(choice, 5, probes=[probe])]
        trained: list[tuple[StudentSpec, float | None]] = []
        scores = score_in_parallel(tiny_study, tmp_path, jobs, "test", on_trained=lambda *news: trained.append(news))[0]
        ((spec, took),) = trained
        assert spec is jobs[0] and took is not None and took > 0
        found = scores.ranks
        expected = ranks(problem, train_on_all(problem, choice.best.recipe, tiny_study.seed, 5), problem.test)
        assert found.image_to_text.tolist() == expected.image_to_text.tolist()
        assert found.text_to_image.tolist() == expected.text_to_image.tolist()
        assert kept_ranks(tmp_path, choice, "val", 5) is kept_ranks(tmp_path, choice, "test", 6) is None

        monkeypatch.setattr(rayvldd.runtime.full_data, "run_work", lambda *_: pytest.fail("chosen again"))
        assert choose_recipe(tiny_study, tmp_path, problem.fingerprints, display) == choice
        monkeypatch.setattr(rayvldd.runtime.evaluation, "run_work", nothing_to_do)
        trained.clear()
        again = score_in_parallel(tiny_study, tmp_path, jobs, "test", on_trained=lambda *news: trained.append(news))[0]
        assert trained == [(jobs[0], None)], "its scores were cached"
        assert again.ranks.recalls() == expected.recalls() and again.probed == scores.probed
        assert list(again.probed) == ["other images"]
        other = [StudentSpec(choice, 5, probes=[replace(probe, identity="other inputs")])]
        with pytest.raises(AssertionError, match="trained again"):
            score_in_parallel(tiny_study, tmp_path, other, "test")
    told = (tmp_path / "out.txt").read_text()
    assert told.count("full data: SGD at 0.1") == 2 and "the best of 2 recipes (cached)" in told


def test_what_determines_a_bound_is_its_key(tiny_study: Study, problem: StudyTask) -> None:
    def key(study: Study, **changed: str) -> str:
        return rayvldd.runtime.full_data._key_of(study, {**problem.fingerprints, **changed})

    own = key(tiny_study)
    same = {"experts.epochs": 5, "distillation.num_pairs": 6, "evaluation.epochs": 3, "resources.cpus_per_trial": 2}
    assert {key(tiny_study.at({name: value})) for name, value in same.items()} == {own}
    other = {"model.width": 8, "seed": 8, "evaluation.weight_decay": 0.0}
    grid = tiny_study.at({"evaluation.full_data.epochs": (2,)})
    keys = [key(tiny_study.at({name: value})) for name, value in other.items()]
    assert len({own, *keys, key(grid), key(tiny_study, data="other")}) == 6


def test_a_recipe_that_diverges_is_not_chosen(
    kept_actors: None, tiny_study: Study, problem: StudyTask, tmp_path: Path
) -> None:
    study = tiny_study.at({"evaluation.full_data.learning_rates": (1e30, 0.1)})
    with (tmp_path / "out.txt").open("w") as out:
        choice = choose_recipe(study, tmp_path, problem.fingerprints, ProgressDisplay(Console(file=out)))
    assert choice.tried[0].val_mean_recall is None and choice.best.recipe.learning_rate == 0.1
