"""The full-data bound: choose the recipe of models of all pairs on validation, and keep it and their ranks.

Both are in the cache, in ``full_data/KEY``. The key is a hash of data, model, grid and seed, so a bound is trained once
for all studies and sets that share them.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from rayvldd.config.setting import selected
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.data.array_cache import fingerprint
from rayvldd.errors import StoreError
from rayvldd.evaluation.full_data import recipes_of, train_on_all
from rayvldd.evaluation.recall import RetrievalRanks
from rayvldd.evaluation.scoring import score
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import StudentPurpose, student_seeds
from rayvldd.records.full_data import FullDataChoice, FullDataRecipe, NumbersOfModel, RanksOfModel, TriedRecipe
from rayvldd.runtime.actor_pool import run_work
from rayvldd.runtime.cluster import start_ray
from rayvldd.runtime.resources import resources_of_trials

_VERSION = 1
"""Incremented when training computes different results from the same settings."""


def choose_recipe(
    study: Study,
    cache_folder: Path,
    fingerprints: Mapping[str, str],
    display: ProgressDisplay,
    words_left: Callable[[float], str] | None = None,
    on_trained: Callable[[float], None] | None = None,
) -> FullDataChoice:
    """Return the best recipe of the study's grid on validation: the cached choice, or train one model by each recipe.

    Args:
        study: The study at one point.
        cache_folder: Folder of decoded images and embeddings.
        fingerprints: Fingerprints of data and encoders.
        display: Shows the progress and the choice.
        words_left: Returns the words for the time that is left when a share of the work is done; default: none.
        on_trained: Called with the seconds of each model that was trained.

    Raises:
        RayvlddError: when no actor fits, or the process of a recipe dies repeatedly.
    """
    key = _key_of(study, fingerprints)
    file = _folder(cache_folder, key) / "recipe.json"
    with suppress(StoreError):  # missing or damaged
        choice = FullDataChoice.read(file)
        display.line(f"full data: {choice.best.words} (cached)")
        return choice
    recipes = recipes_of(study.evaluation)
    seed = student_seeds(study.seed, 1, StudentPurpose.VALIDATION)[0]
    total = sum(recipe.epochs for recipe in recipes)

    def show(finished: int, running: Mapping[int, int]) -> None:
        done = min(finished * total // len(recipes) + sum(running.values()), total)
        words = [f"epochs of {len(recipes)} recipes for all pairs", words_left(done / total) if words_left else ""]
        display.progress("full-data bound", done, total, ", ".join(filter(None, words)))

    def trained_one(_: int, seconds: float) -> None:
        if on_trained:
            on_trained(seconds)

    with start_ray(None, None, display):
        works = [_RecipeWork(recipe, study.seed, seed) for recipe in recipes]
        recalls = run_work(works, study, cache_folder, resources_of_trials(study), show, on_finished=trained_one)
    display.done()
    tried = [
        TriedRecipe(recipe=recipe, val_mean_recall=recall) for recipe, recall in zip(recipes, recalls, strict=True)
    ]
    choice = FullDataChoice(key=key, tried=tuple(tried))
    with suppress(OSError):  # a read-only cache: the next command chooses again
        choice.write(file)
    display.line(f"full data: {choice.best.words}")
    return choice


def has_chosen_recipe(study: Study, cache_folder: Path, fingerprints: Mapping[str, str]) -> bool:
    """Whether :func:`choose_recipe` has a cached choice."""
    return (_folder(cache_folder, _key_of(study, fingerprints)) / "recipe.json").is_file()


def kept_ranks(cache_folder: Path, choice: FullDataChoice, split: str, seed: int) -> RetrievalRanks | None:
    """Return the cached ranks of a model of the best recipe; None if there are none."""
    try:
        found = RanksOfModel.read(_ranks_file(cache_folder, choice, split, seed))
    except StoreError:  # missing or damaged
        return None
    return RetrievalRanks(np.array(found.image_to_text), np.array(found.text_to_image))


def keep_ranks(cache_folder: Path, choice: FullDataChoice, split: str, seed: int, ranks: RetrievalRanks) -> None:
    """Add the ranks of a model of the best recipe to the cache, unless it is read-only."""
    values = {name: tuple(int(rank) for rank in of_way) for name, of_way in vars(ranks).items()}
    with suppress(OSError):
        RanksOfModel(**values).write(_ranks_file(cache_folder, choice, split, seed))


def kept_numbers(
    cache_folder: Path, choice: FullDataChoice, split: str, seed: int, identity: str
) -> dict[str, float] | None:
    """Return the cached numbers of a probe of a model of the best recipe; None if there are none."""
    with suppress(StoreError):  # missing or damaged
        return NumbersOfModel.read(_numbers_file(cache_folder, choice, split, seed, identity)).numbers
    return None


def keep_numbers(
    cache_folder: Path, choice: FullDataChoice, split: str, seed: int, identity: str, numbers: Mapping[str, float]
) -> None:
    """Add the numbers of a probe of a model of the best recipe to the cache, unless it is read-only."""
    with suppress(OSError):
        NumbersOfModel(numbers=dict(numbers)).write(_numbers_file(cache_folder, choice, split, seed, identity))


def _key_of(study: Study, fingerprints: Mapping[str, str]) -> str:
    """Hash of everything that determines the bound. The settings of experts and distillation are not part of it."""
    values = study.model_dump(mode="json")
    parts = selected(study, lambda info: not info.by_content and info.has_effect(values))
    identity: dict[str, JsonValue] = {name: parts[name] for name in ("seed", "data", "model") if name in parts}
    identity["version"] = _VERSION
    identity["recipes"] = [recipe.model_dump(mode="json") for recipe in recipes_of(study.evaluation)]
    identity["fingerprints"] = dict(fingerprints)
    return fingerprint(identity)


def _folder(cache_folder: Path, key: str) -> Path:
    return cache_folder / "full_data" / key


def _ranks_file(cache_folder: Path, choice: FullDataChoice, split: str, seed: int) -> Path:
    return _folder(cache_folder, choice.key) / f"{split}-{seed}.json"


def _numbers_file(cache_folder: Path, choice: FullDataChoice, split: str, seed: int, identity: str) -> Path:
    return _folder(cache_folder, choice.key) / f"{split}-{seed}-{identity}.json"


@dataclass(frozen=True)
class _RecipeWork:
    """Train one model of all pairs, and return its mean recall on validation; None if it diverged."""

    recipe: FullDataRecipe
    study_seed: int
    seed: int

    @property
    def title(self) -> str:
        return f"model of all pairs by {self.recipe.words}"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> float | None:
        trained = train_on_all(task, self.recipe, self.study_seed, self.seed, note)
        if not all(bool(side.isfinite().all()) for side in trained):
            return None
        return score(task, trained, task.val).mean_recall
