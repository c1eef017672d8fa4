"""A depthwise convolution by regions as kernels, for channels-last images; `drconv.py` calls it.

Pixels are not sorted. A tile of pixels makes the filters of the regions in it where it uses them;
made for each pixel, they would read tables eight times as often as the image. No filter and no
region's response is ever in memory.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.parts import Filters
from trainer.layers.kernels.drconv_depthwise_kernels import (
    filter_kernel,
    product_kernel,
    slope_kernel,
)
from trainer.layers.kernels.drconv_shared import Found, blocks, filter_arguments, slopes_from

# 8 numbers a thread. Few channels and many pixels, which share what is made of the tables.
PRODUCT_TILE: dict[str, Any] = {"PIXELS": 64, "CHANNELS": 16, "num_warps": 4}
# 32 sums a thread, for 4 products of gradient and image and 2 numbers of filters at each tap.
SLOPE_TILE: dict[str, Any] = {"PIXELS": 16, "NUMBERS": 8, "CHANNELS": 64, "num_warps": 8}
FILTER_TILE: dict[str, Any] = {"PIXELS": 64, "TERMS": 16, "CHANNELS": 64, "num_warps": 8}
# Of samples whose filters' gradients are added up apart; or of as many regions' own tables.
LOTS = 64


def forward(
    image: Tensor, mask: Tensor, filters: Filters, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """The output of `region_conv`, in the image's dtype, as [batch, h, w, channels]."""
    out = image.new_empty(len(image), *mask.shape[1:], image.shape[1])
    _multiply(image.permute(0, 2, 3, 1), out, mask, _laid_out(filters), bias, geometry, back=False)
    return out


def backward(
    gradient: Tensor,
    image: Tensor,
    mask: Tensor,
    filters: Filters,
    geometry: Geometry,
    *,
    wanted: tuple[bool, bool, bool, bool],
) -> Found:
    """What is `wanted` of these."""
    filters = _laid_out(filters)
    d_image = slopes = d_coefficient = d_table = None
    if wanted[0]:
        d_image = torch.empty_like(image)
        rows, target = gradient.permute(0, 2, 3, 1), d_image.permute(0, 2, 3, 1)
        _multiply(rows, target, mask, filters, None, geometry, back=True)
    if wanted[1]:
        slopes = slopes_from(partial(_responses, gradient, image, geometry=geometry), filters)
    if wanted[2] or wanted[3]:
        d_coefficient, d_table = _of_filters(gradient, image, mask, filters, geometry)
    return Found(d_image, slopes, d_coefficient, d_table)


def _laid_out(filters: Filters) -> Filters:
    """The same with channels next to each other in the tables, as they are in images."""
    return filters._replace(table=filters.table.transpose(2, 4).contiguous().transpose(2, 4))


def geometry_arguments(geometry: Geometry) -> dict[str, int]:
    """What the kernels are compiled for."""
    return {
        "KERNEL_WIDTH": geometry.kernel[1],
        "STRIDE_Y": geometry.stride[0],
        "STRIDE_X": geometry.stride[1],
        "PADDING_Y": geometry.padding[0],
        "PADDING_X": geometry.padding[1],
    }


def _multiply(
    source: Tensor,
    target: Tensor,
    mask: Tensor,
    filters: Filters,
    bias: Tensor | None,
    geometry: Geometry,
    *,
    back: bool,
) -> None:
    batch, height, width, channels = target.shape
    tiles = blocks(height * width, PRODUCT_TILE["PIXELS"])
    product_kernel[batch * tiles, blocks(channels, PRODUCT_TILE["CHANNELS"])](
        source,
        target,
        bias,
        mask.contiguous(),
        **filter_arguments(filters),
        channels=channels,
        tiles=tiles,
        height=height,
        width=width,
        seen_height=source.shape[1],
        seen_width=source.shape[2],
        taps=geometry.taps,
        **geometry_arguments(geometry),
        BACK=back,
        **PRODUCT_TILE,
    )


def _responses(gradient: Tensor, image: Tensor, filters: Filters, *, geometry: Geometry) -> Tensor:
    """Each filter's response at each pixel against the output's gradient."""
    batch, channels, height, width = gradient.shape
    numbers = filters.coefficient.shape[1]
    tiles = blocks(height * width, SLOPE_TILE["PIXELS"])
    found = gradient.new_empty(batch, numbers, height * width, dtype=torch.float32)
    slope_kernel[batch * tiles, blocks(numbers, SLOPE_TILE["NUMBERS"])](
        gradient,
        image,
        found,
        **filter_arguments(filters),
        channels=channels,
        numbers=numbers,
        tiles=tiles,
        height=height,
        width=width,
        seen_height=image.shape[2],
        seen_width=image.shape[3],
        taps=geometry.taps,
        **geometry_arguments(geometry),
        **SLOPE_TILE,
    )
    return found


def _of_filters(
    gradient: Tensor, image: Tensor, mask: Tensor, filters: Filters, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The gradients of coefficients and tables."""
    coefficient, table = filters
    batch, regions, terms, factor_taps = coefficient.shape
    channels, (height, width), taps = image.shape[1], mask.shape[1:], geometry.taps
    lots = min(batch, max(LOTS // len(table), 1))
    channel_blocks = blocks(channels, FILTER_TILE["CHANNELS"])
    d_factor = table.new_empty(taps, channel_blocks, batch, regions, terms, dtype=torch.float32)
    d_table = table.new_empty(lots, len(table), terms, taps, channels, dtype=torch.float32)
    grid = (taps * blocks(terms, FILTER_TILE["TERMS"]), channel_blocks * len(table), lots)
    filter_kernel[grid](
        gradient,
        image,
        d_factor,
        d_table,
        mask.contiguous(),
        **filter_arguments(filters),
        channels=channels,
        batch=batch,
        regions=regions,
        tables=len(table),
        lots=lots,
        height=height,
        width=width,
        seen_height=image.shape[2],
        seen_width=image.shape[3],
        taps=geometry.taps,
        **geometry_arguments(geometry),
        **FILTER_TILE,
    )
    of_factor = d_factor.sum(1).permute(1, 2, 3, 0)
    of_table = d_table.sum(0).transpose(2, 3)[:, :, :, None]
    return (
        of_factor if factor_taps > 1 else of_factor.sum(3, keepdim=True),
        of_table if table.shape[4] > 1 else of_table.sum(4, keepdim=True),
    )
