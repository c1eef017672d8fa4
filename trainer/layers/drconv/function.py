"""A convolution whose filter each pixel chooses, with the paper's gradient for the choice.

Forward takes the filter of the highest guide number (arXiv:2003.12243, eqs. 3 to 5); backward
differentiates as if each pixel had mixed all filters by the softmax of its numbers (eqs. 6 to 8),
while filters and image keep the gradients of the choice that was made. Never m outputs, and never
the filters of more than one sample at a time.
"""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.layers import kernels
from trainer.layers.drconv import plain
from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.graph import in_graph, region_conv_in_graph
from trainer.layers.drconv.parts import Filters, Gradients
from trainer.layers.native import drconv as native

MOST_REGIONS = 256  # a pixel's region is kept as a byte


def region_conv(
    image: Float[Tensor, "batch in height width"],
    filters: Filters,
    *,
    guide: Float[Tensor, "batch m h w"] | None = None,
    guide_weight: Float[Tensor, "m in 1 1"] | None = None,
    bias: Float[Tensor, " out"] | None = None,
    geometry: Geometry,
) -> tuple[Float[Tensor, "batch out h w"], UInt8[Tensor, "batch h w"]]:
    """The output, and the region of each of its pixels.

    A pixel's region is where `guide` is highest, the first of equals; or where the 1x1 convolution
    by `guide_weight` is, which costs less if made here; then the kernel must be pointwise.
    """
    assert (guide is None) != (guide_weight is None)
    if in_graph():
        if guide is None:
            assert guide_weight is not None
            guide = functional.conv2d(image, guide_weight)
        return region_conv_in_graph(image, guide, filters, bias, geometry)
    out, mask = _RegionConv.apply(
        image,
        guide,
        guide_weight,
        filters.coefficient,
        filters.table,
        bias,
        geometry,
        torch.is_grad_enabled(),
    )
    return out, mask


class _RegionConv(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        image: Tensor,
        guide: Tensor | None,
        guide_weight: Tensor | None,
        coefficient: Tensor,
        table: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        filters = Filters(coefficient, table)
        done = native.forward(image, guide, guide_weight, filters, bias, geometry, keep=keep)
        if done is None:
            if guide is None:
                assert guide_weight is not None
                guide = torch.einsum("bchw,mc->bmhw", image, guide_weight[:, :, 0, 0])
            mask = plain.choose_regions(guide)
            out = None
            if kernels.usable(image.device):
                from trainer.layers.kernels import drconv as triton_kernels

                out = triton_kernels.forward(image, mask, filters, bias, geometry)
            if out is None:
                out = plain.forward(image, mask, filters, bias, geometry)
            done = out, guide, mask
        out, guide, mask = done
        ctx.save_for_backward(image, guide, guide_weight, mask, coefficient, table)
        ctx.geometry = geometry
        ctx.mark_non_differentiable(mask)
        return out, mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _mask: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        image, guide, guide_weight, mask, coefficient, table = ctx.saved_tensors
        asked = ctx.needs_input_grad
        filters, geometry = Filters(coefficient, table), ctx.geometry
        wanted = (asked[0], asked[1] or asked[2] or _mixes(ctx, guide_weight), asked[3], asked[4])
        found = native.backward(
            gradient, image, guide, guide_weight, mask, filters, geometry, wanted=wanted
        )
        if found is None and kernels.usable(image.device):
            from trainer.layers.kernels import drconv as triton_kernels

            found = triton_kernels.backward(
                gradient, image, guide, mask, filters, geometry, wanted=wanted
            )
        if found is None:
            found = plain.backward(gradient, image, guide, mask, filters, geometry, wanted=wanted)
        d_bias = gradient.sum((0, 2, 3)) if asked[5] else None
        if guide_weight is not None and found.guide is not None:
            found = _through_guide(found, image, guide_weight)
        return *found[:2], found.guide_weight, *found[2:4], d_bias, None, None


def _mixes(ctx: Any, guide_weight: Tensor | None) -> bool:
    """Whether the image's gradient needs the guide's."""
    return guide_weight is not None and ctx.needs_input_grad[0]


def _through_guide(found: Gradients, image: Tensor, guide_weight: Tensor) -> Gradients:
    """The same after the 1x1 convolution that made the guide's numbers."""
    assert found.guide is not None
    rows = found.guide.permute(0, 2, 3, 1).flatten(0, 2)
    numbers = image.permute(0, 2, 3, 1).flatten(0, 2)
    d_weight = (rows.T @ numbers).view_as(guide_weight)
    if found.image is not None:
        of_image = found.image.permute(0, 2, 3, 1)
        if of_image.is_contiguous():
            of_image.view_as(numbers).addmm_(rows, guide_weight.flatten(1))
        else:
            of_image += (rows @ guide_weight.flatten(1)).view_as(of_image)
    return found._replace(guide=None, guide_weight=d_weight)
