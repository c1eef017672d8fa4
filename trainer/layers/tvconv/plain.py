"""The translation-variant product and its gradients in plain torch, for any device and dtype.

One place of the kernel at a time over the whole batch, so no copy of the input k^2 times as large.
Numbers are those of the compiled code, but for the order in which the weights' gradient is summed
over images. Sums are in the wider of float32 and the arguments' dtypes.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trainer.layers.tvconv.taps import Geometry, Size

Images = Float[Tensor, "batch channels height width"]
Outputs = Float[Tensor, "batch channels out_height out_width"]
Weights = Float[Tensor, "out_height out_width taps channels"]


def product(image: Images, weight: Weights, *, stride: int) -> Outputs:
    """The product, in the image's dtype; autograd and torch's compilers see through it."""
    dtype, kernel = _wide(image, weight), round(weight.shape[2] ** 0.5)
    height, width = weight.shape[:2]
    padded = functional.pad(image.to(dtype), (kernel // 2,) * 4)
    sums = padded.new_zeros(*image.shape[:2], height, width).contiguous(
        memory_format=torch.channels_last
    )
    for tap, (y, x) in enumerate(_places(kernel, stride, (height, width))):
        sums = sums + padded[:, :, y, x] * weight[:, :, tap].permute(2, 0, 1)
    return sums.to(image.dtype)


def forward(image: Images, weight: Weights, geometry: Geometry) -> Outputs:
    """The product."""
    return product(image, weight, stride=geometry.stride)


def image_gradient(gradient: Outputs, weight: Weights, geometry: Geometry) -> Images:
    """Of the image, from the output's, in that one's dtype."""
    dtype, padding = _wide(gradient, weight), geometry.padding
    height, width = geometry.in_size
    padded = torch.zeros(
        *gradient.shape[:2],
        height + 2 * padding,
        width + 2 * padding,
        dtype=dtype,
        device=gradient.device,
    ).contiguous(memory_format=torch.channels_last)
    gradient_wide = gradient.to(dtype)
    for tap, (y, x) in enumerate(_places(geometry.kernel, geometry.stride, geometry.out_size)):
        padded[:, :, y, x] += gradient_wide * weight[:, :, tap].permute(2, 0, 1)
    inner = padded[:, :, padding : padding + height, padding : padding + width]
    return inner.to(gradient.dtype).contiguous(memory_format=torch.channels_last)


def weight_gradient(image: Images, gradient: Outputs, geometry: Geometry) -> Weights:
    """Of the weights, from the output's gradient, in at least float32."""
    dtype = _wide(image, gradient)
    padded = functional.pad(image.to(dtype), (geometry.padding,) * 4)
    gradient = gradient.to(dtype)
    taps = [
        (padded[:, :, y, x] * gradient).sum(0)
        for y, x in _places(geometry.kernel, geometry.stride, geometry.out_size)
    ]
    return torch.stack(taps).permute(2, 3, 0, 1).contiguous()


def _places(kernel: int, stride: int, out_size: Size) -> Iterator[tuple[slice, slice]]:
    """What every tap meets in the padded input, in the kernel's order."""
    height, width = out_size
    for y in range(kernel):
        for x in range(kernel):
            yield (
                slice(y, y + stride * (height - 1) + 1, stride),
                slice(x, x + stride * (width - 1) + 1, stride),
            )


def _wide(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
