"""Convolutions whose second derivatives use the library's kernels for first derivatives.

torch computes the double backward of a convolution by convolutions with exchanged axes, one per group: a depthwise
layer needs hundreds of calls, and the weight derivative a convolution with a kernel as large as the image. However, all
terms are one of three products with dedicated library kernels. With C(x, w) the convolution, X(g, w) its gradient with
respect to the input and W(x, g) with respect to the weight, for u and v in the shapes of x and w

    <u, X(g, w)> = <C(u, w), g> = <W(u, g), w>          <v, W(x, g)> = <C(x, v), g> = <X(g, v), x>

so that the second derivatives of the step are C(u, w) + C(x, v) by g, X(g, v) by x and W(u, g) by w.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SMALL_PLANE = 4
"""Output pixels up to which a CPU computes the weight gradient as one matrix product, which is faster there."""


class Geometry(NamedTuple):
    """Stride, padding, dilation and groups of a convolution.

    Shapes of its methods: images ``[image, in_channel, height, width]``, weight ``[out_channel, in_channel / groups,
    kernel_height, kernel_width]``, gradient and output ``[image, out_channel, out_height, out_width]``.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def forward(self, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return C(images, weight)."""
        output: Tensor = torch.ops.aten.convolution(
            images, weight, bias, self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        )
        return output

    def by_input(self, gradient: Tensor, images: Tensor, weight: Tensor) -> Tensor:
        """Return X(gradient, weight); only the shape of ``images`` is used."""
        return self._backward(gradient, images, weight, by_weight=False)

    def by_weight(self, gradient: Tensor, images: Tensor, weight: Tensor, torchs_bits: bool = False) -> Tensor:
        """Return W(images, gradient); only the shape of ``weight`` is used."""
        plane, kernel = gradient.shape[2:].numel(), (weight.shape[2], weight.shape[3])
        small = self.groups == 1 and plane <= _SMALL_PLANE and kernel != (1, 1)
        if small and gradient.is_cpu and not torchs_bits:
            columns = F.unfold(images, kernel, self.dilation, self.padding, self.stride)
            rows = gradient.flatten(2).transpose(0, 1).flatten(1)
            return (rows @ columns.transpose(1, 2).flatten(0, 1)).view_as(weight)
        return self._backward(gradient, images, weight, by_weight=True)

    def _backward(self, gradient: Tensor, images: Tensor, weight: Tensor, *, by_weight: bool) -> Tensor:
        gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            gradient,
            images,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            [not by_weight, by_weight, False],
        )
        return gradients[1 if by_weight else 0]


class Convolution(torch.autograd.Function):
    """C(images, weight) + bias, twice differentiable.

    With ``skip_first``, a backward pass with ``create_graph`` omits the gradient with respect to the images: the
    student's gradient is with respect to its parameters only, but its derivative with respect to the images is needed.
    Such a pass is bitwise equal to torch's: the student's parameters must not depend on how they are differentiated,
    and a rounding difference can flip a ReLU.
    """

    @staticmethod
    def forward(
        context: Any, images: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, skip_first: bool
    ) -> Tensor:
        """Compute the convolution."""
        context.save_for_backward(images, weight)
        context.geometry, context.skip_first = geometry, skip_first
        return geometry.forward(images, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradient, which is differentiable once more."""
        images, weight = context.saved_tensors
        by_images, by_weight, by_bias = context.needs_input_grad[:3]
        first = torch.is_grad_enabled()
        by_images &= not (context.skip_first and first)
        gradients = _Gradient.apply(gradient, images, weight, context.geometry, by_images, by_weight, first)
        return *gradients, gradient.sum((0, 2, 3)) if by_bias else None, None, None


class _Gradient(torch.autograd.Function):
    """X(gradient, weight) and W(images, gradient), each only if needed."""

    @staticmethod
    def forward(
        context: Any,
        gradient: Tensor,
        images: Tensor,
        weight: Tensor,
        geometry: Geometry,
        by_images: bool,
        by_weight: bool,
        torchs_bits: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        context.set_materialize_grads(False)
        context.save_for_backward(gradient, images, weight)
        context.geometry = geometry
        return (
            geometry.by_input(gradient, images, weight) if by_images else None,
            geometry.by_weight(gradient, images, weight, torchs_bits) if by_weight else None,
        )

    @staticmethod
    def backward(context: Any, u: Tensor | None, v: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the engine's convolution has two derivatives, a third was requested")
        gradient, images, weight = context.saved_tensors
        geometry, (by_gradient, by_images, by_weight) = context.geometry, context.needs_input_grad[:3]
        parts = []
        if by_gradient:
            parts += [] if u is None else [geometry.forward(u, weight)]
            parts += [] if v is None else [geometry.forward(images, v)]
        return (
            sum(parts[1:], parts[0]) if parts else None,
            geometry.by_input(gradient, images, v) if by_images and v is not None else None,
            geometry.by_weight(gradient, u, weight) if by_weight and u is not None else None,
            *(None, None, None, None),
        )


class TwiceDifferentiableConvolutions(TorchFunctionMode):
    """Mode in which ``conv2d`` uses ``Convolution``; unsupported cases use torch's implementation."""

    def __init__(self, images: Tensor) -> None:
        """Create the mode; ``images`` are the inputs of the step, for which the student needs no gradient."""
        super().__init__()
        self._images = images

    @no_type_check  # the tests' run-time checks would see every torch function of a student, 20 % of their time
    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Handle a call of a torch function."""
        if function is F.conv2d:
            return self._convolve(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _convolve(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> Tensor:
        if input.ndim != 4 or isinstance(padding, str):
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        geometry = Geometry(_both(stride), _both(padding), _both(dilation), groups)
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        values = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        output: Tensor = Convolution.apply(*values, geometry, input is self._images)
        return output


def _both(value: int | Iterable[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width
