"""Gradients of tensors with more than one element."""

from collections.abc import Sequence

import torch
from torch import Tensor


def vector_jacobian_products(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Return the product of each input's Jacobian with the cotangents: ``torch.autograd.grad`` with ``grad_outputs``.

    The gradient of <output, cotangent> is the same, bit for bit. With ``grad_outputs`` torch would import its symbolic
    shapes to compare two sizes, which takes half a second of CPU in each process of a trial.

    Args:
        outputs: Tensors of any shape, as functions of the inputs.
        inputs: Tensors that require a gradient.
        cotangents: One for each output, of its shape.
        create_graph: Whether the products can be differentiated in turn.

    Returns:
        One tensor for each input, of its shape.

    Raises:
        ValueError: if a cotangent has another shape than its output.
    """
    products = []
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if output.shape != cotangent.shape:
            raise ValueError(f"a cotangent has the shape {tuple(cotangent.shape)}, its output {tuple(output.shape)}")
        products.append((output * cotangent).sum())
    return torch.autograd.grad(sum(products[1:], start=products[0]), list(inputs), create_graph=create_graph)
