"""The contract of distillation methods."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from rayvldd.config.domains import SettingValue
from rayvldd.distillation.evaluations import EvaluationResult
from rayvldd.distillation.loop import OuterLoop, distill
from rayvldd.testing.toy import PROTOCOLS, toy_study, toy_task


def check_method(
    name: str,
    folder: Path,
    *,
    settings: Mapping[str, SettingValue] | None = None,
    protocols: Iterable[str] = ("heads_only", "full_image_encoder", "lora"),
    changes: Mapping[str, SettingValue] | None = None,
) -> None:
    """Check a registered method: finite loss, changes of the set, reproducibility, and resuming a stopped run.

    Args:
        name: Name of the method.
        folder: Empty folder for the cache and checkpoints.
        settings: Settings of the method's section in the toy study; default: those of its declaration's probe.
        protocols: Protocols that the method supports.
        changes: Other settings of the toy study by dotted key.

    Raises:
        AssertionError: if the contract is violated.
    """
    for protocol in protocols:
        study = toy_study(name, settings, **PROTOCOLS[protocol], **(changes or {}))
        task, experts = toy_task(study, folder / "cache")
        where = f"{name} under {protocol}"

        report = OuterLoop(study, task, experts, seed=3).step()
        assert report.loss == report.loss, f"{where}: the loss is not a number"
        assert report.loss_name in report.numbers, f"{where}: the first number of the log is the loss"

        whole = list(distill(study, task, experts, 3, folder / protocol / "whole"))
        first, last = whole[0].distilled_set, whole[-1].distilled_set
        moved = not torch.equal(first.images, last.images) or not torch.equal(first.texts, last.texts)
        assert moved, f"{where}: neither images nor texts moved in {study.distillation.outer_steps} outer steps"
        assert torch.equal(last.start_images, first.start_images), f"{where}: the initial set changed"

        again = list(distill(study, task, experts, 3))
        _same(again, whole, f"{where}: a second run of the same seed differs")

        parts = distill(study, task, experts, 3, folder / protocol / "parts")
        begun = [next(parts), next(parts)]  # and no further: the run is left at its saved state
        rest = list(distill(study, task, experts, 3, folder / protocol / "parts"))
        _same([*begun, *rest], whole, f"{where}: a run that was stopped and continued differs")


def _same(left: list[EvaluationResult], right: list[EvaluationResult], message: str) -> None:
    assert [one.outer_step for one in left] == [one.outer_step for one in right], message
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.distilled_set.images, other.distilled_set.images), message
        assert torch.equal(one.distilled_set.texts, other.distilled_set.texts), message
        numbers = [{k: v for k, v in each.metrics.items() if not k.startswith("seconds")} for each in (one, other)]
        assert numbers[0] == numbers[1], message
