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


@pytest.mark.parametrize("damaged", ["a weight of the set", "a digit of the generator", "a digit of the best recall"])
def test_a_damaged_checkpoint_is_not_continued_from(tmp_path: Path, damaged: str) -> None:
    study = toy_study().at({"distillation.outer_steps": 4, "distillation.evaluate_every": 2})
    task, experts = toy_task(study, tmp_path / "cache")
    whole = list(distill(study, task, experts, 3))
    for evaluation in distill(study, task, experts, 3, tmp_path / "run"):
        if evaluation.outer_step == 2:
            break
    (state,) = (tmp_path / "run").glob("state-*")
    file = tmp_path / "run" / "progress.json" if damaged.endswith("recall") else state
    content = bytearray(file.read_bytes())
    marks = {
        "a weight of the set": b"",
        "a digit of the generator": b"inc",
        "a digit of the best recall": b"best_recall",
    }
    mark = marks[damaged]
    place = next(i for i in range(content.find(mark), len(content)) if chr(content[i]).isdigit()) if mark else -2
    content[place] ^= 1  # of a digit, the next one or the one before
    file.write_bytes(content)

    again = list(distill(study, task, experts, 3, tmp_path / "run"))
    assert [one.outer_step for one in again] == [0, 2, 4], "it begins again"
    assert torch.equal(again[-1].distilled_set.images, whole[-1].distilled_set.images)
