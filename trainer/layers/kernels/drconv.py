"""A convolution by regions as kernels, for channels-last images.

Pixels are sorted by region, without waiting for the device; no filter and no region's response is
ever in memory. Depthwise layers have `drconv_depthwise.py`. Each function says by None where it did
nothing and torch has to do the work.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.parts import Filters, Gradients
from trainer.layers.kernels import drconv_depthwise
from trainer.layers.kernels.drconv_kernels import filter_kernel, product_kernel, slope_kernel
from trainer.layers.kernels.drconv_shared import Found, blocks, filter_arguments, slopes_from

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE: dict[str, Any] = {"ROWS": 64, "COLUMNS": 64, "DEPTH": 32, "num_warps": 8}
LOTS = 16  # of samples whose filters' gradients are added up apart


class _Sorted(NamedTuple):
    """Pixels by region: where they lie, where each region begins, what taps see at each."""

    order: Tensor  # [batch, pixels]
    starts: Tensor  # [batch, m + 1]
    places: Tensor  # [taps, pixels], -1 outside the image
    tiles: int  # of a sample, at most


def forward(
    image: Tensor, mask: Tensor, filters: Filters, bias: Tensor | None, geometry: Geometry
) -> Tensor | None:
    """The output of `region_conv`, in the image's dtype."""
    if not _suited(image, filters, geometry):
        return None
    image = image.contiguous(memory_format=torch.channels_last)
    if _depthwise(filters, geometry):
        out = drconv_depthwise.forward(image, mask, filters, bias, geometry)
    else:
        out = image.new_empty(len(image), *mask.shape[1:], filters.table.shape[2])
        _multiply(image, out, _sort(mask, filters, image, geometry), filters, bias, geometry)
    return out.permute(0, 3, 1, 2)


def backward(
    gradient: Tensor,
    image: Tensor,
    guide: Tensor,
    mask: Tensor,
    filters: Filters,
    geometry: Geometry,
    *,
    wanted: tuple[bool, bool, bool, bool],
) -> Gradients | None:
    """The gradients that are `wanted` of image, guide, coefficient and table."""
    if not _suited(image, filters, geometry):
        return None
    image = image.contiguous(memory_format=torch.channels_last)
    gradient = gradient.to(image.dtype).contiguous(memory_format=torch.channels_last)
    of = drconv_depthwise.backward if _depthwise(filters, geometry) else _backward
    found = of(gradient, image, mask, filters, geometry, wanted=wanted)
    d_guide = None
    if found.slopes is not None:
        slopes = found.slopes.view_as(guide)
        weight = guide.float().softmax(1)
        d_guide = weight * (slopes - (weight * slopes).sum(1, keepdim=True))
        d_guide = d_guide.to(guide.dtype)
    return Gradients(found.image, d_guide, found.coefficient, found.table)


def _backward(
    gradient: Tensor,
    image: Tensor,
    mask: Tensor,
    filters: Filters,
    geometry: Geometry,
    *,
    wanted: tuple[bool, bool, bool, bool],
) -> Found:
    by_region = _sort(mask, filters, image, geometry)
    d_image = slopes = d_coefficient = d_table = None
    if wanted[0]:
        # Each tap adds to what the ones before it left, in float32.
        wide = torch.zeros_like(image, dtype=torch.float32)
        for tap in range(geometry.taps):
            _multiply(gradient, wide, by_region, filters, None, geometry, back_tap=tap)
        d_image = wide.to(image.dtype)
    if wanted[1]:
        responses = partial(_responses, gradient, image, by_region, geometry=geometry)
        slopes = slopes_from(responses, filters)
    if wanted[2] or wanted[3]:
        d_coefficient, d_table = _of_filters(gradient, image, by_region, filters, geometry)
    return Found(d_image, slopes, d_coefficient, d_table)


def _suited(image: Tensor, filters: Filters, geometry: Geometry) -> bool:
    """Whether there is a kernel: not for other types, nor several outputs of one channel."""
    alone = geometry.groups == image.shape[1]
    return image.dtype in DTYPES and (_depthwise(filters, geometry) or not alone)


def _depthwise(filters: Filters, geometry: Geometry) -> bool:
    """Whether each output has an input of its own, and no other."""
    _, _, outputs, inputs_of_group, _ = filters.table.shape
    return inputs_of_group == 1 and outputs == geometry.groups


def _sort(mask: Tensor, filters: Filters, image: Tensor, geometry: Geometry) -> _Sorted:
    batch, regions = filters.coefficient.shape[:2]
    flat = mask.flatten(1)
    order = flat.sort(dim=1, stable=True).indices.int()
    numbers = torch.arange(regions, device=mask.device)
    counts = (flat[:, None] == numbers[:, None]).sum(2)
    starts = torch.zeros(batch, regions + 1, dtype=torch.int32, device=mask.device)
    starts[:, 1:] = counts.cumsum(1)
    tiles = blocks(flat.shape[1], TILE["ROWS"]) + min(regions, flat.shape[1])
    return _Sorted(order, starts, _places(image, geometry, mask), tiles)


def _places(image: Tensor, geometry: Geometry, mask: Tensor) -> Tensor:
    """Which pixel of the image a tap sees at a pixel of the output."""
    axes = []
    for axis in range(2):
        start = torch.arange(mask.shape[1 + axis], device=mask.device) * geometry.stride[axis]
        tap = torch.arange(geometry.kernel[axis], device=mask.device)
        axes.append(start + tap[:, None] - geometry.padding[axis])  # [taps of the axis, pixels]
    row, column = axes[0][:, None, :, None], axes[1][None, :, None, :]
    height, width = image.shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    places = torch.where(inside, row * width + column, -1)
    return places.flatten(2).flatten(0, 1).int().contiguous()


def _filter_arguments(filters: Filters, geometry: Geometry) -> dict[str, Any]:
    table = filters.table
    return {
        **filter_arguments(filters),
        "of_out": table.stride(2),
        "of_in": table.stride(3),
        "inputs": table.shape[3],
        "outputs": table.shape[2] // geometry.groups,
    }


def _multiply(
    source: Tensor,
    target: Tensor,
    by_region: _Sorted,
    filters: Filters,
    bias: Tensor | None,
    geometry: Geometry,
    *,
    back_tap: int = -1,
) -> None:
    """Forward; or, with a tap to go back through, its part of the image's gradient."""
    back = back_tap >= 0
    arguments = _filter_arguments(filters, geometry)
    columns = arguments["inputs" if back else "outputs"]
    batch, regions = filters.coefficient.shape[:2]
    grid = (batch * by_region.tiles, blocks(columns, TILE["COLUMNS"]), geometry.groups)
    pixels = by_region.order.shape[1]
    seen = (target if back else source).numel() // batch // (arguments["inputs"] * geometry.groups)
    product_kernel[grid](
        source,
        target,
        bias,
        by_region.order,
        by_region.starts,
        by_region.places,
        **arguments,
        regions=regions,
        tiles=by_region.tiles,
        pixels=pixels,
        seen=seen,
        groups=geometry.groups,
        first_tap=max(back_tap, 0),
        taps=1 if back else geometry.taps,
        BACK=back,
        **TILE,
    )


def _responses(
    gradient: Tensor, image: Tensor, by_region: _Sorted, filters: Filters, *, geometry: Geometry
) -> Tensor:
    """Each filter's response at each pixel against the output's gradient."""
    numbers = filters.coefficient.shape[1]
    pixels = by_region.order.shape[1]
    found = torch.empty(len(image), numbers, pixels, dtype=torch.float32, device=image.device)
    arguments = _filter_arguments(filters, geometry)
    grid = (blocks(pixels, TILE["ROWS"]), numbers, len(image))
    slope_kernel[grid](
        gradient,
        image,
        found,
        by_region.places,
        **arguments,
        pixels=pixels,
        seen=image.shape[2] * image.shape[3],
        groups=geometry.groups,
        taps=geometry.taps,
        **TILE,
    )
    return found


def _of_filters(
    gradient: Tensor, image: Tensor, by_region: _Sorted, filters: Filters, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The gradients of coefficients and tables."""
    arguments = _filter_arguments(filters, geometry)
    batch, regions, terms, factor_taps = filters.coefficient.shape
    lots, table = min(batch, LOTS), filters.table
    in_blocks = blocks(arguments["inputs"], TILE["DEPTH"])
    out_blocks = blocks(arguments["outputs"], TILE["COLUMNS"])
    parts = in_blocks * out_blocks * geometry.groups
    taps = geometry.taps
    # A program's own parts: of coefficients by block, group and tap; of tables by lot and tap.
    d_factor = table.new_zeros(taps, parts, batch, regions, terms)
    shape = (*table.shape[:4], taps)
    d_table = table.new_zeros(lots, *shape)
    strides = d_table.stride()
    filter_kernel[(parts, taps, lots)](
        gradient,
        image,
        d_factor,
        d_table,
        by_region.order,
        by_region.starts,
        by_region.places,
        **arguments,
        to_lot=strides[0],
        to_own=strides[1] if len(table) > 1 else 0,
        to_term=strides[2],
        to_out=strides[3],
        to_in=strides[4],
        batch=batch,
        regions=regions,
        lots=lots,
        pixels=by_region.order.shape[1],
        seen=image.shape[2] * image.shape[3],
        groups=geometry.groups,
        out_blocks=out_blocks,
        **TILE,
    )
    by_tap = d_factor.sum(1).permute(1, 2, 3, 0)
    of_factor = by_tap if factor_taps > 1 else by_tap.sum(3, keepdim=True)
    of_table = d_table.sum(0)
    return of_factor, of_table if table.shape[4] > 1 else of_table.sum(4, keepdim=True)
