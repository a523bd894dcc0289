"""A run that is cut off between two evaluations goes on from its last checkpoint."""

from pathlib import Path

import pytest
import torch

from rayvldd.distillation.loop import StepReport, distill
from rayvldd.testing.toy import toy_study, toy_task


class CutOffError(Exception):
    """The machine goes away."""


@pytest.mark.parametrize(("minutes", "repeated"), [(1e-9, 1), (60.0, 4)])
def test_a_run_cut_off_between_evaluations_goes_on_and_gives_the_same(
    tmp_path: Path, minutes: float, repeated: int
) -> None:
    changes = {"distillation.outer_steps": 4, "distillation.evaluate_every": 4, "resources.checkpoint_minutes": minutes}
    study = toy_study().at(changes)
    task, experts = toy_task(study, tmp_path / "cache")
    whole = list(distill(study, task, experts, 3))

    def cut_off(report: StepReport) -> None:
        if report.outer_step == 3:
            raise CutOffError

    with pytest.raises(CutOffError):
        list(distill(study, task, experts, 3, tmp_path / "run", cut_off))
    steps: list[StepReport] = []
    *_, last = distill(study, task, experts, 3, tmp_path / "run", steps.append)

    assert len(steps) == repeated
    assert torch.equal(last.distilled_set.images, whole[-1].distilled_set.images)
    numbers = [
        {name: value for name, value in result.metrics.items() if not name.startswith("seconds")}
        for result in (last, whole[-1])
    ]
    assert numbers[0] == numbers[1]
