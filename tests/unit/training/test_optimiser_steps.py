"""Steps of SGD and Adam are those of torch's classes, bit for bit, and do not import torch's compiler."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from helpers.paths import ROOT
from torch import Tensor

from rayvldd.training.optimiser_steps import adam_step, sgd_step


def by_torch(make: Callable[[Tensor], torch.optim.Optimizer], steps: int) -> Tensor:
    value = torch.linspace(-1, 2, 12).reshape(3, 4)
    optimiser = make(value)
    for _ in range(steps):
        value.grad = value**3 - 0.2
        optimiser.step()
    return value


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
def test_sgd_is_that_of_torch(momentum: float, weight_decay: float) -> None:
    value, velocity = torch.linspace(-1, 2, 12).reshape(3, 4), None
    for _ in range(5):
        velocity = sgd_step(value, value**3 - 0.2, velocity, 0.1, momentum, weight_decay)
    expected = by_torch(lambda x: torch.optim.SGD([x], lr=0.1, momentum=momentum, weight_decay=weight_decay), 5)
    assert torch.equal(value, expected)
    assert (velocity is None) == (momentum == 0)


def test_adam_is_that_of_torch() -> None:
    value, state = torch.linspace(-1, 2, 12).reshape(3, 4), dict[str, Tensor]()
    for _ in range(5):
        adam_step(value, value**3 - 0.2, state, 0.1, beta1=0.6)
    assert torch.equal(value, by_torch(lambda x: torch.optim.Adam([x], lr=0.1, betas=(0.6, 0.999)), 5))
    assert float(state["step"]) == 5


def test_values_that_require_a_gradient_are_updated() -> None:
    value = torch.ones(3, requires_grad=True)
    sgd_step(value, torch.full((3,), 2.0), None, 0.25, momentum=0.0)
    assert value.tolist() == [0.5, 0.5, 0.5]
    assert value.requires_grad


_STEPS = """
import sys
import torch
from rayvldd.distillation.outer_optimisers import OUTER_OPTIMISERS
from rayvldd.training.gradients import vector_jacobian_products
from rayvldd.training.sgd import SgdSettings, TwoSidedSgd
image, text = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
TwoSidedSgd(image, text, SgdSettings(0.1, 0.1, momentum=0.9), lambda: image.sum() * text.sum()).step(0, ())
for make in OUTER_OPTIMISERS.values():
    make(0.5).step({"images": torch.ones(3)}, {"images": torch.ones(3)}, {"images": 1.0})
vector_jacobian_products([image * 2], [image], [torch.ones(3)])
assert "torch._dynamo" not in sys.modules, "torch's compiler was imported"
assert "sympy" not in sys.modules, "torch's symbolic shapes were imported"
"""


def test_no_step_imports_the_compiler_or_symbolic_shapes() -> None:
    """They take seconds of CPU, and every process of a trial would pay them."""
    done = subprocess.run([sys.executable, "-c", _STEPS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
