"""The depthwise product with weights of their own at each position: one function, differentiable.

On a CPU it is compiled code, on a GPU kernels, elsewhere plain torch; none of them holds the input
k^2 times, and each weight is read once for several images.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.layers import kernels
from trainer.layers.native import tvconv as native
from trainer.layers.tvconv import plain, taps

CHANNELS_LAST = torch.channels_last


def varying_depthwise(
    image: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "out_height out_width taps channels"],
    *,
    stride: int = 1,
) -> Float[Tensor, "batch channels out_height out_width"]:
    """Convolve each channel with a kernel that depends on the position (arXiv:2203.10489).

    The kernel is square and odd, its `taps` in rows; the image is padded by half of it with zeros.
    The output has the image's dtype and memory format, channels-last being the faster by far; sums
    are in float32, or float64 where an argument is that. Where torch compiles or exports, it is
    plain torch in the graph.

    Raises:
        ValueError: the weights are of other positions than an image of this size has.
    """
    in_size, built = (image.shape[2], image.shape[3]), (weight.shape[0], weight.shape[1])
    if taps.out_size(in_size, stride) != built:
        found = taps.out_size(in_size, stride)
        raise ValueError(
            f"the weights are of {built[0]}x{built[1]} output positions and the image has "
            f"{found[0]}x{found[1]} at stride {stride}; build the layer with the image size of "
            "the data"
        )
    if goes_into_graph():
        return plain.product(image, weight, stride=stride)
    shape = taps.geometry(in_size, round(weight.shape[2] ** 0.5), stride)
    if torch.is_grad_enabled() and (image.requires_grad or weight.requires_grad):
        output = _Product.apply(image, weight, shape)
        assert isinstance(output, Tensor)
    else:
        output = _product(_channels_last(image), weight.contiguous(), shape)
    if image.is_contiguous(memory_format=CHANNELS_LAST):
        return output
    return output.contiguous()


def goes_into_graph() -> bool:
    """Whether torch is compiling or exporting, so that all is to be torch's own operations."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, shape: taps.Geometry) -> Tensor:
        image, weight = _channels_last(image), weight.contiguous()
        ctx.save_for_backward(image, weight)
        ctx.shape = shape
        return _product(image, weight, shape)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        image, weight = ctx.saved_tensors
        gradient = _channels_last(gradient)
        of_image = of_weight = None
        if ctx.needs_input_grad[0]:
            of_image = _first("image_gradient", image, gradient, weight, ctx.shape)
        if ctx.needs_input_grad[1]:
            of_weight = _first("weight_gradient", image, image, gradient, ctx.shape)
            of_weight = of_weight.to(weight.dtype)
        return of_image, of_weight, None


def _product(image: Tensor, weight: Tensor, shape: taps.Geometry) -> Tensor:
    return _first("forward", image, image, weight, shape)


def _channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=CHANNELS_LAST)


def _first(name: str, image: Tensor, *arguments: Any) -> Tensor:
    """The result of the first implementation that takes these arguments."""
    for module in _implementations(image.device):
        result = getattr(module, name)(*arguments)
        if result is not None:
            return result
    raise AssertionError("plain torch takes all")


def _implementations(device: torch.device) -> Iterator[ModuleType]:
    if device.type == "cpu":
        yield native
    elif kernels.usable(device):
        from trainer.layers.kernels import tvconv

        yield tvconv
    yield plain
