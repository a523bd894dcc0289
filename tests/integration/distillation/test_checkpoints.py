"""A run that is cut off between two evaluations goes on from its last checkpoint."""

from pathlib import Path

import pytest
import torch

from rayvldd.distillation.loop import StepReport, distill
from rayvldd.testing.toy import toy_study, toy_task


class CutOffError(Exception):
    """The machine goes away."""


@pytest.mark.parametrize(
    ("num_steps", "minutes", "cut_at", "repeated"),
    [
        (4, 1e-9, 3, 1),
        (4, 60.0, 3, 4),
        (4, 1e-9, 4, 0),  # in the last evaluation
        (8, 1e-9, 4, 4),  # in the one before
    ],
)
def test_a_run_cut_off_between_evaluations_goes_on_and_gives_the_same(
    tmp_path: Path, num_steps: int, minutes: float, cut_at: int, repeated: int
) -> None:
    changes = {
        "distillation.outer_steps": num_steps,
        "distillation.evaluate_every": 4,
        "resources.checkpoint_minutes": minutes,
    }
    study = toy_study().at(changes)
    task, experts = toy_task(study, tmp_path / "cache")
    whole = list(distill(study, task, experts, 3))

    def cut_off(report: StepReport) -> None:
        if report.outer_step == cut_at:
            raise CutOffError

    with pytest.raises(CutOffError):
        list(distill(study, task, experts, 3, tmp_path / "run", cut_off))
    steps: list[StepReport] = []
    resumed = list(distill(study, task, experts, 3, tmp_path / "run", steps.append))
    last, num_left = resumed[-1], num_steps // 4

    assert len(steps) == repeated
    assert [one.outer_step for one in resumed] == [one.outer_step for one in whole[-num_left:]]
    assert torch.equal(last.distilled_set.images, whole[-1].distilled_set.images)
    numbers = [
        {name: value for name, value in result.metrics.items() if not name.startswith("seconds")}
        for result in (last, whole[-1])
    ]
    assert numbers[0] == numbers[1]
