"""A convolution by regions in operations that torch compiles and exports.

Each table's response at every pixel, and their sum by the pixel's coefficients: `terms` times a
convolution's products, for graphs that cannot sort pixels.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.parts import Filters


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
    coefficient, table = filters
    if len(table) > 1 or coefficient.shape[3] > 1:
        raise ValueError(
            "a DRConv layer whose regions have tables of their own cannot be compiled or exported; "
            'use generator="templates"'
        )
    mask = guide.argmax(1)
    terms, outputs = table.shape[1:3]
    # A group's outputs of all tables lie together: outputs first, then tables.
    weight = table[0].unflatten(-1, geometry.kernel).transpose(0, 1).flatten(0, 1)
    every = functional.conv2d(
        image, weight, stride=geometry.stride, padding=geometry.padding, groups=geometry.groups
    )
    every = every.unflatten(1, (outputs, terms)).transpose(1, 2)
    chosen = functional.one_hot(mask, guide.shape[1]).permute(0, 3, 1, 2).to(image.dtype)
    mixing = coefficient[..., 0].transpose(1, 2)
    by_pixel = torch.einsum("bjt,bthw->bjhw", mixing, chosen)
    out = (by_pixel[:, :, None] * every).sum(1)
    if torch.is_grad_enabled():
        # Nothing in value; the guide's gradient is that of the mixture (eqs. 6 to 8).
        share = guide.softmax(1)
        slope = torch.einsum("bjt,bthw->bjhw", mixing.detach(), share - share.detach())
        out = out + (slope[:, :, None] * every.detach()).sum(1)
    out = out if bias is None else out + bias[:, None, None]
    return out, mask.to(torch.uint8)
