"""A convolution by regions in torch alone, on any device and in any precision.

The pixels of a region are gathered and multiplied with its filter, a sample at a time: one
convolution's products, and no more than one sample's filters at once. Compiled code (native/) and
kernels (kernels/) do the same work.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.parts import Filters, Gradients


def choose_regions(guide: Float[Tensor, "batch m h w"]) -> UInt8[Tensor, "batch h w"]:
    """Each pixel's highest number, the lowest index among equal ones."""
    # Not argmax, which promises no order among equals on every device.
    indices = torch.arange(guide.shape[1], device=guide.device).view(1, -1, 1, 1)
    highest = guide == guide.amax(1, keepdim=True)
    return torch.where(highest, indices, guide.shape[1] - 1).amin(1).to(torch.uint8)


def forward(
    image: Float[Tensor, "batch in height width"],
    mask: UInt8[Tensor, "batch h w"],
    filters: Filters,
    bias: Float[Tensor, " out"] | None,
    geometry: Geometry,
) -> Float[Tensor, "batch out h w"]:
    """The output of `region_conv`."""
    outputs = filters.table.shape[2]
    out = image.new_empty(len(image), *mask.shape[1:], outputs)
    for sample, (region, to) in enumerate(zip(mask.flatten(1), out.flatten(1, 2), strict=True)):
        patches = _patches(image[sample], geometry)
        bank = _bank(filters, sample, geometry)
        for t, its_filter in enumerate(bank):
            pixels = (region == t).nonzero().squeeze(1)
            products = torch.bmm(patches[:, pixels], its_filter.transpose(1, 2))
            to[pixels] = products.transpose(0, 1).reshape(-1, outputs)
    if bias is not None:
        out += bias
    return out.permute(0, 3, 1, 2)


def backward(
    gradient: Float[Tensor, "batch out h w"],
    image: Float[Tensor, "batch in height width"],
    guide: Float[Tensor, "batch m h w"],
    mask: UInt8[Tensor, "batch h w"],
    filters: Filters,
    geometry: Geometry,
    *,
    wanted: tuple[bool, bool, bool, bool],
) -> Gradients:
    """The gradients of image, guide, coefficient and table; what is not `wanted` may be None."""
    groups, size = geometry.groups, image.shape[2:]
    d_image = torch.empty_like(image)
    slopes = torch.zeros(*guide.shape, dtype=image.dtype, device=image.device)
    d_coefficient = torch.zeros_like(filters.coefficient)
    d_table = torch.zeros_like(filters.table)
    for sample, region in enumerate(mask.flatten(1)):
        patches = _patches(image[sample], geometry)
        bank = _bank(filters, sample, geometry)
        # [groups, pixels, outputs of a group]
        of_out = gradient[sample].flatten(1).unflatten(0, (groups, -1)).transpose(1, 2)
        d_patches = torch.zeros_like(patches)
        d_bank = torch.zeros_like(bank)
        for t, its_filter in enumerate(bank):
            pixels = (region == t).nonzero().squeeze(1)
            d_patches[:, pixels] = torch.bmm(of_out[:, pixels], its_filter)
            d_bank[t] = torch.bmm(of_out[:, pixels].transpose(1, 2), patches[:, pixels])
            if wanted[1]:
                seen = torch.bmm(of_out, its_filter)
                slopes[sample, t] = (seen * patches).sum((0, 2)).view(guide.shape[2:])
        columns = d_patches.transpose(1, 2).reshape(1, -1, len(region))
        d_image[sample] = functional.fold(
            columns, size, geometry.kernel, padding=geometry.padding, stride=geometry.stride
        )[0]
        _spread(d_bank, filters, sample, geometry, d_coefficient, d_table)
    weight = guide.to(image.dtype).softmax(1)
    d_guide = weight * (slopes - (weight * slopes).sum(1, keepdim=True))
    return Gradients(d_image, d_guide.to(guide.dtype), d_coefficient, d_table)


def _patches(
    sample: Float[Tensor, "in height width"], geometry: Geometry
) -> Float[Tensor, "groups pixels seen"]:
    """What each pixel of the output sees, by group: its inputs, then their taps."""
    columns = functional.unfold(
        sample[None], geometry.kernel, padding=geometry.padding, stride=geometry.stride
    )
    return columns[0].unflatten(0, (geometry.groups, -1)).transpose(1, 2)


def _bank(
    filters: Filters, sample: int, geometry: Geometry
) -> Float[Tensor, "m groups out_of_group seen"]:
    """One sample's filters."""
    own, table = _tables(filters, geometry)
    coefficient = filters.coefficient[sample].expand(-1, -1, geometry.taps)
    bank = torch.einsum(f"tjk,{own}joik->toik", coefficient, table)
    return bank.flatten(2).unflatten(1, (geometry.groups, -1))


def _tables(filters: Filters, geometry: Geometry) -> tuple[str, Tensor]:
    """The tables with all taps, and the letter of a region's own ones, or none if they share."""
    table = filters.table.expand(-1, -1, -1, -1, geometry.taps)
    return ("t", table) if len(table) > 1 else ("", table[0])


def _spread(
    d_bank: Float[Tensor, "m groups out_of_group seen"],
    filters: Filters,
    sample: int,
    geometry: Geometry,
    d_coefficient: Tensor,
    d_table: Tensor,
) -> None:
    """Add what one sample's filters' gradient means for its coefficients and for the tables."""
    d_filter = d_bank.flatten(1, 2).unflatten(2, (-1, geometry.taps))
    own, table = _tables(filters, geometry)
    coefficient = filters.coefficient[sample].expand(-1, -1, geometry.taps)
    of_coefficient = torch.einsum(f"toik,{own}joik->tjk", d_filter, table)
    d_coefficient[sample] += of_coefficient.sum_to_size(*filters.coefficient.shape[1:])
    of_table = torch.einsum(f"tjk,toik->{own}joik", coefficient, d_filter)
    d_table += of_table.expand_as(table).reshape(-1, *table.shape[-4:]).sum_to_size(*d_table.shape)
