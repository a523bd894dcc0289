"""A distilled set as the start of another: its pairs, its step sizes, other numbers of pairs, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tasks import StudyTask, load

from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.initialisation import faults_of_initial_sets
from rayvldd.distillation.loop import OuterLoop
from rayvldd.errors import ConfigError, StoreError
from rayvldd.models.scalars import read_scalars


@pytest.fixture
def before(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> Path:
    """The folder of a set of 4 pairs that differ from all real ones."""
    task = loaded(tiny_study, tiny_cache)
    found = OuterLoop(task.study, task, [], 3).distilled_set()
    moved = replace(found, images=found.images + 0.1, texts=found.texts * 2, lr_student_image=0.03, lr_student_text=0.3)
    moved.save(tmp_path / "before")
    return tmp_path / "before"


def loaded(study: Study, cache: Path, **changes: Any) -> StudyTask:
    return load(study, cache, **{"distillation.method": "covariance", **changes})


def begun(study: Study, cache: Path, place: Path, pairs: int) -> DistilledSet:
    changes = {"distillation.initialise_from": str(place), "distillation.num_pairs": pairs}
    task = loaded(study, cache, **changes)
    return OuterLoop(task.study, task, [], 5).distilled_set()


@pytest.mark.parametrize("pairs", [2, 4, 7])
def test_the_pairs_of_a_set_are_the_start(tiny_study: Study, tiny_cache: Path, before: Path, pairs: int) -> None:
    earlier, start = DistilledSet.load(before), begun(tiny_study, tiny_cache, before, pairs)
    shared = min(pairs, 4)
    assert len(start) == len(start.start_captions) == pairs
    assert torch.allclose(start.start_images[:shared], earlier.images[:shared], atol=1e-6)
    assert torch.equal(start.start_texts[:shared], earlier.texts[:shared])
    assert start.start_captions[:shared] == earlier.start_captions[:shared]
    assert (start.lr_student_image, start.lr_student_text) == pytest.approx((0.03, 0.3))


def test_further_pairs_are_those_of_the_initialisation(tiny_study: Study, tiny_cache: Path, before: Path) -> None:
    task = loaded(tiny_study, tiny_cache, **{"distillation.num_pairs": 7})
    without = OuterLoop(task.study, task, [], 5).distilled_set()
    start = begun(tiny_study, tiny_cache, before, 7)
    assert torch.equal(start.start_images[4:], without.start_images[4:])
    assert start.start_captions[4:] == without.start_captions[4:]


def test_learned_step_sizes_are_measured_from_those_of_the_set(
    tiny_study: Study, tiny_cache: Path, before: Path
) -> None:
    """A step size far from the setting's is no divergence where the set began with it."""
    changes = {"distillation.initialise_from": str(before), "distillation.lr_student_text": 30.0}
    task = loaded(tiny_study, tiny_cache, **changes)
    loop = OuterLoop(task.study, task, [], 5)
    assert loop.set.fault(read_scalars(loop.set.measured())) is None
    loop.set.step_sizes["lr_text"] *= 1000
    assert "went from 0.3 to 300" in str(loop.set.fault(read_scalars(loop.set.measured())))


def test_sets_that_do_not_fit_are_refused_before_work(tiny_study: Study, before: Path, tmp_path: Path) -> None:
    def faults(**changes: Any) -> str:
        return "\n".join(str(fault) for fault in faults_of_initial_sets(tiny_study.at(changes)))

    key = "distillation.initialise_from"
    assert not faults(**{key: str(before)})
    assert "is not a distilled set" in faults(**{key: str(tmp_path / "nothing")})
    assert "16 px, not 24" in faults(**{key: str(before), "data.image_size": 24})
    other = {"model.text_encoder.width": 16}
    assert "another text encoder" in faults(**{key: str(before), **other})


def test_a_missing_set_is_an_error_of_its_own(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a distilled set"):
        begun(tiny_study, tiny_cache, tmp_path / "nothing", 4)


def test_noise_and_a_set_exclude_each_other(tiny_study: Study) -> None:
    changes = {"distillation.initialise_from": "some_set", "distillation.initialisation.texts": "noise"}
    with pytest.raises(ValueError, match=r"got initialisation\.texts: noise"):
        tiny_study.at(changes)


@pytest.mark.parametrize("parametrisation", ["pixels", "pyramid"])
@pytest.mark.parametrize("optimiser", ["sgd", "normalised_sgd", "adam"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_fixed_pairs_stay_while_new_ones_move(
    tiny_study: Study, tiny_cache: Path, before: Path, optimiser: str, ema: float, parametrisation: str
) -> None:
    changes = {"distillation.initialise_from": str(before), "distillation.num_pairs": 7, "distillation.fixed_pairs": 4}
    changes |= {"distillation.outer_optimiser": optimiser, "distillation.ema_decay": ema}
    changes |= {"distillation.image_parametrisation": parametrisation}
    task = loaded(tiny_study, tiny_cache, **changes)
    loop = OuterLoop(task.study, task, [], 5)
    start = loop.distilled_set()
    for _ in range(3):
        loop.step()
    grown = loop.distilled_set()
    assert torch.equal(grown.images[:4], start.images[:4]) and torch.equal(grown.texts[:4], start.texts[:4])
    for left, right in ((grown.images, start.images), (grown.texts, start.texts)):
        assert ((left[4:] - right[4:]).flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed_pairs": 2}, "fixed_pairs are those of initialise_from, got 2 and no set"),
        ({"fixed_pairs": 4, "num_pairs": 4, "initialise_from": "some_set"}, "fixed_pairs must be below num_pairs"),
    ],
)
def test_pairs_that_cannot_be_fixed_are_refused(tiny_study: Study, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_study.override({f"distillation.{name}": value for name, value in changes.items()})
