"""Scaled outer rates: the size of the first update, on gradients made by hand and in whole runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, distillation_key, load, random_trajectory
from torch import Tensor

from rayvldd.config.study import Study
from rayvldd.distillation.loop import OuterLoop
from rayvldd.distillation.method import MethodStep
from rayvldd.distillation.rate_factors import DRAWS, factors_of, relative_gradients
from rayvldd.distillation.synthetic_set import SyntheticSet
from rayvldd.errors import DivergedError

PROTOCOLS: dict[str, dict[str, Any]] = {
    "heads_only": {},
    "full_image_encoder": {"model.protocol": "full_image_encoder"},
    "lora": {"model.protocol": "lora", "model.lora.targets": ["blocks.0", "blocks.4"], "model.lora.rank": 2},
}


class FixedGradient:
    """A method whose gradient is stated; each draw multiplies it by a random number."""

    def __init__(self, gradients: dict[str, Tensor], *, noisy: bool = False) -> None:
        self.gradients, self.noisy = gradients, noisy
        self.lr_step_sizes: float | None = 0.01
        self.state = {"calls": torch.zeros(1)}

    def gradient(self, synthetic_set: SyntheticSet, outer_step: int, generator: np.random.Generator) -> MethodStep:
        self.state["calls"] += 1
        factor = float(generator.uniform(1, 2)) if self.noisy else 1.0
        loss = torch.tensor(1.0)
        return MethodStep(loss, {name: factor * value for name, value in self.gradients.items()}, {"fixed_loss": loss})

    def state_dict(self) -> dict[str, Tensor]:
        return self.state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.state = state


def made(study: Study, cache: Path, dotted: dict[str, Any] | None = None, **distillation: Any) -> OuterLoop:
    """An outer loop of ``scaled_sgd`` at the default rates, or others."""
    stated = {"outer_optimiser": "scaled_sgd", "lr_image": 1000.0, "lr_text": 1000.0, "lr_lr": 0.01, **distillation}
    changes = {distillation_key(key): value for key, value in stated.items()}
    task: StudyTask = load(study, cache, **changes, **(dotted or {}))
    return OuterLoop(task.study, task, [random_trajectory(task.model, 10)], seed=0)


def with_method(loop: OuterLoop, method: FixedGradient) -> OuterLoop:
    loop._method = method
    return loop


def gradients_of(loop: OuterLoop, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: scale * torch.randn(loop.set.values[name].shape, generator=generator) for name in ("images", "texts")
    }
    return drawn | {"lr_image": torch.tensor(0.3 * scale), "lr_text": torch.tensor(-0.1 * scale)}


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def test_factors_of_gradients_made_by_hand() -> None:
    """Two draws of |g|/|x| 0.3 and 0.4: their root mean square is sqrt(0.125); a half of each share by momentum 0.5."""
    values = {"images": torch.tensor([3.0, -4.0]), "texts": torch.tensor([2.0])}
    sizes = {"lr_image": torch.tensor(0.1), "lr_text": torch.tensor(0.2)}
    draws = [
        relative_gradients(
            {
                "images": size * values["images"],
                "texts": torch.tensor([8.0]),
                "similarity.left": torch.ones(2),
                "lr_image": torch.tensor(-0.5),
                "lr_text": torch.tensor(0.6),
            },
            {**values, **sizes},
        )
        for size in (0.3, 0.4)
    ]
    assert draws[0] == pytest.approx({"images": 0.3, "texts": 4.0, "step_sizes": 5.0})
    assert factors_of(draws, momentum=0.5) == pytest.approx(
        {"images": 0.1 / (1000 * math.sqrt(0.125)), "texts": 0.25 / (1000 * 4), "step_sizes": 0.1 / (0.01 * 5)}
    )


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e5])
@pytest.mark.parametrize("parts", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.1)], ids=["default", "stated"])
def test_the_rates_move_a_constant_gradient_by_their_shares(
    tiny_study: Study, tiny_cache: Path, scale: float, parts: tuple[float, float, float]
) -> None:
    """Of the first update the share 1 - momentum; whatever the scale of the gradient, in proportion to the rates."""
    rates: dict[str, Any] = {"lr_image": 1000 * parts[0], "lr_text": 1000 * parts[1]}
    loop = made(tiny_study, tiny_cache, momentum=0.75, **rates)
    before = {name: value.clone() for name, value in {**loop.set.values, **loop.set.step_sizes}.items()}
    method = FixedGradient(gradients_of(loop, scale))
    method.lr_step_sizes = 0.01 * parts[2]
    report = with_method(loop, method).step()
    for name, share in (("images", 0.2 * parts[0]), ("texts", 0.5 * parts[1])):
        assert rms(loop.set.values[name] - before[name]) / rms(before[name]) == pytest.approx(0.25 * share, rel=1e-4)
    moves = [math.log(float(loop.set.step_sizes[name] / before[name])) for name in ("lr_image", "lr_text")]
    assert max(map(abs, moves)) == pytest.approx(0.25 * 0.2 * parts[2], rel=1e-3)
    assert moves[0] < 0 < moves[1]
    logged = report.numbers["sgd_lr_image"] * rms(method.gradients["images"]) / rms(before["images"])
    assert logged == pytest.approx(0.25 * 0.2 * parts[0], rel=1e-4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_rates_of_sgd_give_the_same_set(tiny_study: Study, tiny_cache: Path, protocol: str) -> None:
    """The logged rates, stated in a study of ``sgd``, repeat the run, so measuring takes nothing of its stream."""
    scaled = made(tiny_study, tiny_cache, PROTOCOLS[protocol], lr_image=100.0, lr_text=100.0, lr_lr=1e-4)
    numbers = [scaled.step() for _ in range(2)][-1].numbers
    stated = {name: numbers[f"sgd_{name}"] for name in ("lr_image", "lr_text", "lr_lr")}
    plain = made(tiny_study, tiny_cache, PROTOCOLS[protocol], outer_optimiser="sgd", **stated)
    assert not any(name.startswith("sgd_") for name in [plain.step() for _ in range(2)][-1].numbers)
    for name in ("images", "texts"):
        assert not torch.equal(plain.set.values[name], getattr(plain.set.initial, name))
        assert torch.allclose(plain.set.values[name], scaled.set.values[name], rtol=1e-5, atol=1e-6)
    for name, size in plain.set.step_sizes.items():
        assert float(scaled.set.step_sizes[name]) == pytest.approx(float(size), rel=1e-5)


def test_factors_are_measured_once_and_a_restored_run_keeps_them(
    tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    loop = made(tiny_study, tiny_cache)
    method = FixedGradient(gradients_of(loop), noisy=True)
    with_method(loop, method)
    loop.step()
    loop.step()
    assert float(method.state["calls"]) == 2  # the state of the method is that of before the measurement
    factors = loop.set.rate_factors
    assert set(factors) == {"images", "texts", "step_sizes"}
    loop.save(tmp_path / "state.safetensors")

    resumed = made(tiny_study, tiny_cache)
    twice = FixedGradient({name: 3 * value for name, value in method.gradients.items()})
    with_method(resumed, twice).restore(tmp_path / "state.safetensors")
    resumed.step()
    assert resumed.set.rate_factors == factors
    again = with_method(made(tiny_study, tiny_cache), FixedGradient(method.gradients, noisy=True))
    again.step()
    assert again.set.rate_factors == factors  # its own stream, of the seeds alone


def test_a_roll_back_keeps_the_factors(tiny_study: Study, tiny_cache: Path) -> None:
    loop = made(tiny_study, tiny_cache, lr_image=1e6, lr_text=1.0, max_rollbacks=9)
    method = FixedGradient(gradients_of(loop))
    assert with_method(loop, method).step().numbers["rollbacks"] > 0
    assert float(method.state["calls"]) < DRAWS  # not measured again


@pytest.mark.parametrize(("value", "words"), [(math.nan, "not finite"), (math.inf, "not finite"), (0.0, "zero")])
def test_gradients_that_give_no_scale_are_refused(
    tiny_study: Study, tiny_cache: Path, value: float, words: str
) -> None:
    loop = made(tiny_study, tiny_cache)
    gradients = gradients_of(loop) | {"texts": torch.full_like(loop.set.texts, value)}
    with pytest.raises(DivergedError, match=f"the gradient of the texts at the start is {words}") as raised:
        with_method(loop, FixedGradient(gradients)).step()
    assert "distillation.lr_student_text" in str(raised.value)
