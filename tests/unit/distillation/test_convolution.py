"""The engine's convolution against torch's own, to the second derivative."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayvldd.distillation.unroll.convolution import Convolution, Geometry, TwiceDifferentiableConvolutions

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3 x 3": ((2, 4, 5, 6), (3, 4, 3, 3), {"padding": 1}),
    "strided": ((2, 4, 6, 5), (3, 4, 3, 3), {"stride": 2, "padding": 1}),
    "uneven": ((2, 2, 6, 7), (3, 2, 3, 1), {"stride": (2, 1), "padding": (1, 0)}),
    "dilated": ((2, 2, 7, 7), (3, 2, 3, 3), {"dilation": 2, "padding": 2}),
    "1 x 1": ((2, 4, 3, 3), (5, 4, 1, 1), {}),
    "grouped": ((2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4, "padding": 1, "stride": 2}),
    "plane of 2 x 2": ((3, 4, 2, 2), (5, 4, 3, 3), {"padding": 1}),
    "plane of one": ((3, 4, 3, 4), (5, 4, 3, 4), {}),
    "small plane, strided and dilated": ((2, 2, 5, 5), (3, 2, 2, 2), {"stride": 2, "dilation": 2}),
}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("images_wanted", [True, False])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_second_derivatives_are_those_of_torch(name: str, images_wanted: bool) -> None:
    """Of a number that reads both first derivatives (or the weight's alone), as a student's step does."""
    shape, kernel, options = GEOMETRIES[name]
    images, weight, bias = drawn(*shape, seed=1), drawn(*kernel, seed=2), drawn(kernel[0], seed=3)
    first_by = [weight, bias, *([images] if images_wanted else [])]

    def derivatives() -> list[Tensor]:
        output = F.conv2d(images.tanh() if images_wanted else images, weight, bias, **options)
        first = torch.autograd.grad(output.sin().sum(), first_by, create_graph=True)
        number = torch.stack([(part * drawn(*part.shape, seed=4 + at)).sum() for at, part in enumerate(first)]).sum()
        return [output, *first, *torch.autograd.grad(number, (images, weight, bias))]

    expected = derivatives()
    with TwiceDifferentiableConvolutions(images):
        found = derivatives()
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_derivatives_are_those_of_finite_differences() -> None:
    geometry = Geometry((2, 1), (1, 1), (1, 1), 2)
    inputs = (drawn(2, 4, 4, 3, seed=1), drawn(2, 2, 3, 3, seed=2), drawn(2, seed=3))

    def convolve(*values: Tensor) -> Tensor:
        output: Tensor = Convolution.apply(*values, geometry, False)
        return output

    assert torch.autograd.gradcheck(convolve, inputs)
    assert torch.autograd.gradgradcheck(convolve, inputs)


def test_third_derivatives_are_refused() -> None:
    images, weight = drawn(1, 1, 3, 3, seed=1), drawn(1, 1, 2, 2, seed=2)
    with TwiceDifferentiableConvolutions(images):
        (first,) = torch.autograd.grad(F.conv2d(images, weight).pow(3).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="a third was requested"):
        torch.autograd.grad(first.sum(), weight, create_graph=True)


def test_other_cases_are_left_to_torch() -> None:
    images, weight = drawn(1, 2, 4, 4, seed=1), drawn(3, 2, 3, 3, seed=2)
    with TwiceDifferentiableConvolutions(images):
        assert F.conv2d(images, weight, padding="same").shape == (1, 3, 4, 4)
        assert F.conv2d(images[0], weight).shape == (3, 2, 2)


def test_autocast_reaches_it() -> None:
    images, weight = drawn(2, 3, 4, 4, seed=1).float(), drawn(3, 3, 3, 3, seed=2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = F.conv2d(images, weight)
        with TwiceDifferentiableConvolutions(images):
            found = F.conv2d(images, weight)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
