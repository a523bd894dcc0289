"""Gradients of tensors with more than one element, against ``torch.autograd.grad``."""

import pytest
import torch

from rayvldd.training.gradients import vector_jacobian_products


def outputs_of(left: torch.Tensor, right: torch.Tensor) -> list[torch.Tensor]:
    return [torch.tanh(left @ right), (left.exp() * right.sum()).flatten()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_torch_bit_for_bit(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(5, 5, generator=random).to(dtype).requires_grad_() for _ in range(2))
    cotangents = [torch.randn(shape, generator=random).to(dtype) for shape in ((5, 5), (25,))]
    expected = torch.autograd.grad(outputs_of(left, right), [left, right], cotangents)
    found = vector_jacobian_products(outputs_of(left, right), [left, right], cotangents)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_products_can_be_differentiated() -> None:
    random = torch.Generator().manual_seed(1)
    value, cotangent, weights = (torch.randn(6, generator=random, requires_grad=True) for _ in range(3))
    (first,) = torch.autograd.grad(torch.sin(value) * value, value, cotangent, create_graph=True)
    (second,) = vector_jacobian_products([torch.sin(value) * value], [value], [cotangent], create_graph=True)
    expected = torch.autograd.grad(weights @ first, (value, cotangent))
    found = torch.autograd.grad(weights @ second, (value, cotangent))
    assert torch.equal(first, second)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_cotangent_of_another_shape_is_refused() -> None:
    value = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"the shape \(1,\), its output \(3,\)"):
        vector_jacobian_products([value * 2], [value], [torch.ones(1)])
