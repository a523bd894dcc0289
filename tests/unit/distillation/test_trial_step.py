"""A step on blank pairs finds an encoder that a method cannot go back through, and passes every other."""

from typing import Any

import pytest
from helpers.studies import TINY_STUDY

from rayvldd.config.study import Study
from rayvldd.distillation.trial_step import faults_of_step

MOBILENET = {"name": "mobilenetv3_small_050", "pretrained": False}


def study(protocol: str, encoder: dict[str, Any] | None = None, **distillation: Any) -> Study:
    model = {**TINY_STUDY["model"], "protocol": protocol}
    model |= {"image_encoder": encoder} if encoder else {}
    model |= {"image_head": None}
    settings = {**TINY_STUDY["distillation"], **distillation}
    data = {**TINY_STUDY["data"], "image_size": 32 if encoder else 16}
    return Study.model_validate({**TINY_STUDY, "data": data, "model": model, "distillation": settings})


def test_a_layer_without_second_derivative_is_named_with_the_protocol() -> None:
    (fault,) = faults_of_step(study("full_image_encoder", MOBILENET))
    assert fault.where == "model.image_encoder" and "mobilenetv3_small_050" in fault.problem
    assert "under full_image_encoder" in fault.problem and "hardsigmoid" in fault.problem


def test_the_same_encoder_passes_where_only_heads_are_trained() -> None:
    assert faults_of_step(study("heads_only", MOBILENET)) == []


@pytest.mark.parametrize("protocol", ["heads_only", "full_image_encoder"])
@pytest.mark.parametrize(
    "settings", [{}, {"similarity": "low_rank", "student_loss": "weighted_bce"}, {"augmentation": ["color", "crop"]}]
)
def test_an_encoder_with_both_derivatives_passes(protocol: str, settings: dict[str, Any]) -> None:
    assert faults_of_step(study(protocol, **settings)) == []
