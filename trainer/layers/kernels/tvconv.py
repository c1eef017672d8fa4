"""The translation-variant product and its gradients as kernels, for channels-last images.

What tvconv/plain.py does, in one pass each: a program has one position and some channels of a few
images, so weights are read once for those and neighbours find theirs in the cache. Each says by
None where it did nothing and that has to do the work.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from trainer.layers.tvconv.taps import Geometry

Images = Float[Tensor, "batch channels height width"]
Outputs = Float[Tensor, "batch channels out_height out_width"]
Weights = Float[Tensor, "out_height out_width taps channels"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# 4 numbers a thread, in loads of 8 to 16 bytes.
TILE: dict[str, Any] = {"IMAGES": 8, "CHANNELS": 64, "num_warps": 4}


def forward(image: Images, weight: Weights, geometry: Geometry) -> Outputs | None:
    """The product, in the image's dtype."""
    return _product(image, weight, geometry, size=geometry.out_size, transposed=False)


def image_gradient(gradient: Outputs, weight: Weights, geometry: Geometry) -> Images | None:
    """Of the image, from the output's, in that one's dtype."""
    return _product(gradient, weight, geometry, size=geometry.in_size, transposed=True)


def weight_gradient(image: Images, gradient: Outputs, geometry: Geometry) -> Weights | None:
    """Of the weights, from the output's gradient, in float32."""
    if image.dtype not in DTYPES or gradient.dtype != image.dtype:
        return None
    images, channels, height, width = image.shape
    out_height, out_width = geometry.out_size
    weight = torch.empty(
        out_height,
        out_width,
        geometry.kernel**2,
        channels,
        dtype=torch.float32,
        device=image.device,
    )
    grid = (weight[..., 0].numel(), -(-channels // TILE["CHANNELS"]))
    weight_kernel[grid](
        image,
        gradient,
        weight,
        images,
        channels,
        height,
        width,
        out_height,
        out_width,
        KERNEL=geometry.kernel,
        STRIDE=geometry.stride,
        **TILE,
    )
    return weight


def _product(
    source: Tensor, weight: Weights, geometry: Geometry, *, size: tuple[int, int], transposed: bool
) -> Tensor | None:
    if source.dtype not in DTYPES or weight.dtype != torch.float32:
        return None
    images, channels, source_height, source_width = source.shape
    target = torch.empty(
        images,
        channels,
        *size,
        dtype=source.dtype,
        device=source.device,
        memory_format=torch.channels_last,
    )
    grid = (size[0] * size[1], -(-channels // TILE["CHANNELS"]), -(-images // TILE["IMAGES"]))
    product_kernel[grid](
        source,
        weight,
        target,
        images,
        channels,
        source_height,
        source_width,
        *size,
        KERNEL=geometry.kernel,
        STRIDE=geometry.stride,
        TRANSPOSED=transposed,
        **TILE,
    )
    return target


@triton.jit
@no_type_check
def product_kernel(
    source,
    weight,
    target,
    images,
    channels,
    source_height,
    source_width,
    target_height,
    target_width,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    IMAGES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One position of the target, in the kernel's order of taps; sums in float32."""
    position = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.program_id(2) * IMAGES + tl.arange(0, IMAGES)
    real = channel < channels
    mine = (image < images)[:, None] & real[None, :]
    source_image = image.to(tl.int64) * (source_height * source_width * channels)
    target_image = image.to(tl.int64) * (target_height * target_width * channels)
    y = position // target_width
    x = position % target_width
    sums = tl.zeros((IMAGES, CHANNELS), tl.float32)
    for tap in tl.static_range(KERNEL * KERNEL):
        down = tap // KERNEL - KERNEL // 2
        right = tap % KERNEL - KERNEL // 2
        if TRANSPOSED:
            # The outputs that this input took part in; the weights are theirs.
            whole = ((y - down) % STRIDE == 0) & ((x - right) % STRIDE == 0)
            inside = whole & (y >= down) & (x >= right)
            from_y = (y - down) // STRIDE
            from_x = (x - right) // STRIDE
            place = from_y * source_width + from_x
        else:
            from_y = y * STRIDE + down
            from_x = x * STRIDE + right
            inside = (from_y >= 0) & (from_x >= 0)
            place = position
        inside = inside & (from_y < source_height) & (from_x < source_width)
        row = (place * (KERNEL * KERNEL) + tap) * channels
        by = tl.load(weight + row + channel, mask=inside & real, other=0.0)
        start = (from_y * source_width + from_x) * channels
        at = source_image[:, None] + (start + channel)[None, :]
        value = tl.load(source + at, mask=inside & mine, other=0.0).to(tl.float32)
        sums += value * by[None, :]
    at = target_image[:, None] + (position * channels + channel)[None, :]
    tl.store(target + at, sums.to(target.dtype.element_ty), mask=mine)


@triton.jit
@no_type_check
def weight_kernel(
    image_of,
    gradient_of,
    weight,
    images,
    channels,
    height,
    width,
    out_height,
    out_width,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    IMAGES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One row of weights: a tap of one output position, summed over all images in float32."""
    row = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < channels
    position = row // (KERNEL * KERNEL)
    tap = row % (KERNEL * KERNEL)
    from_y = position // out_width * STRIDE + tap // KERNEL - KERNEL // 2
    from_x = position % out_width * STRIDE + tap % KERNEL - KERNEL // 2
    inside = (from_y >= 0) & (from_x >= 0) & (from_y < height) & (from_x < width)
    start = (from_y * width + from_x) * channels + channel
    out_start = position * channels + channel
    sums = tl.zeros((IMAGES, CHANNELS), tl.float32)
    for first in range(0, images, IMAGES):
        image = (first + tl.arange(0, IMAGES)).to(tl.int64)
        mine = inside & (image < images)[:, None] & real[None, :]
        at = (image * (height * width * channels))[:, None] + start[None, :]
        out_at = (image * (out_height * out_width * channels))[:, None] + out_start[None, :]
        value = tl.load(image_of + at, mask=mine, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_of + out_at, mask=mine, other=0.0).to(tl.float32)
        sums += value * gradient
    tl.store(weight + row * channels + channel, tl.sum(sums, 0), mask=real)
