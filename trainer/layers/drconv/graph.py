"""A convolution by regions in operations that torch compiles and exports.

For graphs, which cannot sort pixels. Of shared tables each one's response at every pixel, and their
sum by the pixel's coefficients: `terms` times a convolution's products. Where regions have tables
of their own (the paper's generator), each region's response: `m` times, and filters for the batch.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.parts import Filters
from trainer.layers.drconv.plain import choose_regions


def in_graph() -> bool:
    """Whether torch is compiling or exporting."""
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def region_conv_in_graph(
    image: Float[Tensor, "batch in height width"],
    guide: Float[Tensor, "batch m h w"],
    filters: Filters,
    bias: Float[Tensor, " out"] | None,
    geometry: Geometry,
) -> tuple[Float[Tensor, "batch out h w"], UInt8[Tensor, "batch h w"]]:
    """The output and gradients of `region_conv`, and the regions."""
    mask = choose_regions(guide)
    chosen = functional.one_hot(mask.long(), guide.shape[1]).permute(0, 3, 1, 2).to(image.dtype)
    shared = len(filters.table) == 1 and filters.coefficient.shape[3] == 1
    if shared:
        every, mixing = _of_tables(image, filters, geometry), filters.coefficient[..., 0]
    else:
        every, mixing = _of_regions(image, filters, geometry), None
    out = (_by_pixel(mixing, chosen) * every).sum(1)
    if torch.is_grad_enabled():
        # Nothing in value; the guide's gradient is that of the mixture (eqs. 6 to 8).
        share = guide.softmax(1)
        slope = _by_pixel(None if mixing is None else mixing.detach(), share - share.detach())
        out = out + (slope * every.detach()).sum(1)
    out = out if bias is None else out + bias[:, None, None]
    return out, mask


def _by_pixel(
    mixing: Float[Tensor, "batch m terms"] | None, chosen: Float[Tensor, "batch m h w"]
) -> Float[Tensor, "batch terms_or_m 1 h w"]:
    """What each table's response counts at a pixel, or each region's without a mixture."""
    mixed = chosen if mixing is None else torch.einsum("btj,bthw->bjhw", mixing, chosen)
    return mixed[:, :, None]


def _of_tables(
    image: Tensor, filters: Filters, geometry: Geometry
) -> Float[Tensor, "batch terms out h w"]:
    """What each of the shared tables makes of every pixel."""
    table = filters.table[0]
    terms, outputs = table.shape[:2]
    # A group's outputs of all tables lie together: outputs first, then tables.
    weight = table.unflatten(-1, geometry.kernel).transpose(0, 1).flatten(0, 1)
    every = functional.conv2d(
        image, weight, stride=geometry.stride, padding=geometry.padding, groups=geometry.groups
    )
    return every.unflatten(1, (outputs, terms)).transpose(1, 2)


def _of_regions(
    image: Tensor, filters: Filters, geometry: Geometry
) -> Float[Tensor, "batch m out h w"]:
    """What each region's own filter makes of every pixel."""
    groups, regions = geometry.groups, filters.coefficient.shape[1]
    coefficient = filters.coefficient.expand(-1, -1, -1, geometry.taps)
    table = filters.table.expand(regions, -1, -1, -1, geometry.taps)
    bank = torch.einsum("btjk,tjoik->btoik", coefficient, table)
    bank = bank.flatten(3).unflatten(2, (groups, -1)).transpose(1, 2).flatten(2, 3)
    seen = functional.unfold(
        image, geometry.kernel, padding=geometry.padding, stride=geometry.stride
    )
    every = (bank @ seen.unflatten(1, (groups, -1))).unflatten(2, (regions, -1))
    size = geometry.output_size((image.shape[2], image.shape[3]))
    return every.transpose(1, 2).flatten(2, 3).unflatten(3, size)
