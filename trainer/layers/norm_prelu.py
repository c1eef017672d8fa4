"""Batch normalisation by a batch's own statistics, and PReLU: together where one follows the other.

On a CPU torch spends more on these than on convolutions: its PReLU alone took a third of a
MobileFaceNet's training. For channels-last maps a compiled pass does both at once, keeping only
what the normalisation was given; elsewhere, and where torch compiles or exports, they are torch's
own operations, with the same numbers up to the order of sums.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.layers.native import norm as native

Values = Float[Tensor, "batch channel ..."]
ByChannel = Float[Tensor, " channel"]


class Normalised(NamedTuple):
    """A map by its own statistics, and these, which carry no gradient."""

    output: Values
    mean: ByChannel
    variance: ByChannel
    """Unbiased, as running statistics want it."""


def batch_norm(
    image: Values, weight: ByChannel, bias: ByChannel, slope: ByChannel | None, *, eps: float
) -> Normalised:
    """Normalise each channel over the batch and its positions, then PReLU where there is a slope.

    In the image's dtype; statistics are of the parameters'.
    """
    if _compiled(image, weight, bias, slope):
        output, statistics = _BatchNorm.apply(image, weight, bias, slope, eps)
        return Normalised(output, statistics[0], statistics[2])
    # With momentum 1 torch leaves this batch's mean and unbiased variance in the buffers.
    mean, variance = torch.zeros_like(bias), torch.zeros_like(bias)
    output = functional.batch_norm(
        image, mean, variance, weight, bias, training=True, momentum=1.0, eps=eps
    )
    return Normalised(_prelu(output, slope), mean, variance)


def affine(
    image: Values,
    mean: ByChannel,
    variance: ByChannel,
    weight: ByChannel,
    bias: ByChannel,
    slope: ByChannel | None,
    *,
    eps: float,
) -> Values:
    """The same by statistics that are given."""
    if not torch.is_grad_enabled() and _compiled(image, mean, variance, weight, bias, slope):
        scale = weight * (variance + eps).rsqrt()
        return native.apply(image, scale=scale, shift=bias - mean * scale, slope=slope)
    return _prelu(functional.batch_norm(image, mean, variance, weight, bias, eps=eps), slope)


def prelu(image: Values, slope: Float[Tensor, " slopes"], *, in_place: bool = False) -> Values:
    """Positive values, and the others times the slope, of all channels or of each.

    `in_place` may write over the image, and is for where no gradient is wanted.
    """
    if not _compiled(image, slope):
        return functional.prelu(image, slope)
    if not torch.is_grad_enabled() or not (image.requires_grad or slope.requires_grad):
        return native.apply(image, slope=slope, in_place=in_place)
    output = _PReLU.apply(image, slope)
    assert isinstance(output, Tensor)
    return output


def _prelu(image: Tensor, slope: Tensor | None) -> Tensor:
    return image if slope is None else functional.prelu(image, slope)


def _compiled(image: Tensor, *by_channel: Tensor | None) -> bool:
    """Whether compiled code does it."""
    if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return False
    # Autocast would have PReLU's result in its own dtype, which is the image's after a convolution.
    as_it_is = image.dtype != torch.float32 or not torch.is_autocast_enabled("cpu")
    return as_it_is and native.takes(image, *by_channel)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        output, statistics = native.forward(image, weight, bias, slope, eps=eps)
        ctx.save_for_backward(image, weight, bias, slope, statistics)
        ctx.mark_non_differentiable(statistics)
        return output, statistics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor, _of_statistics: Tensor
    ) -> tuple[Tensor | None, ...]:
        image, weight, bias, slope, statistics = ctx.saved_tensors
        result = native.backward(
            image,
            weight,
            bias,
            slope,
            statistics,
            _like(gradient, image),
            of_image=ctx.needs_input_grad[0],
        )
        return *result, None


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(image, slope)
        return native.apply(image, slope=slope)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        image, slope = ctx.saved_tensors
        return native.prelu_backward(image, slope, _like(gradient, image))


def _like(gradient: Tensor, image: Tensor) -> Tensor:
    """The gradient laid out as the image."""
    return gradient.contiguous(memory_format=native.layout(image))
