"""The steps of a student over which its learning rates fall."""

from pathlib import Path

import pytest
import torch
from helpers.tasks import load

import rayvldd.evaluation.students
from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation.students import train_student
from rayvldd.models.parameters import Parameters
from rayvldd.training.sgd import SgdSettings, train_on_batches


@pytest.mark.parametrize(("batch_size", "steps"), [(2, 6), (3, 6), (4, 3), (100, 3)])
def test_the_number_of_steps_is_that_of_the_batches(
    tiny_study: Study, tiny_cache: Path, batch_size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 pairs; a last batch of a single pair is dropped."""
    task = load(tiny_study, tiny_cache, **{"evaluation.epochs": 3, "evaluation.batch_size": batch_size})
    pairs = choose_coreset(task, "random", 5, seed=1).pairs(task, 0.1)
    train, seen = train_on_batches, list[tuple[int, int | None]]()

    def counted(
        model: object, initial: Parameters, batches: object, rates: SgdSettings, loss: str, graphs: bool
    ) -> object:
        found = train(model, initial, batches, rates, loss, graphs)  # type: ignore[arg-type]
        seen.append((len(found[1]), rates.num_steps))
        return found

    monkeypatch.setattr(rayvldd.evaluation.students, "train_on_batches", counted)
    with torch.no_grad():
        frozen_output = task.model.frozen_part(pairs.images)
    train_student(task, pairs, frozen_output, task.study.evaluation, seed=3)
    assert seen == [(steps, steps)]
