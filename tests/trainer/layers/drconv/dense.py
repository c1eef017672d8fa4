"""DRConv as the paper writes it: m convolutions, then each pixel selects one; in float64.

Its backward is autograd's through the surrogate: the value of the selection, the guide's gradient
of the mixture by softmax (arXiv:2003.12243, eqs. 6 to 8).
"""

import torch
from torch import Tensor
from torch.nn import functional

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.parts import Filters


def bank_of(filters: Filters, geometry: Geometry) -> Tensor:
    """All filters, [batch, m, out, in of a group, kernel rows, columns]."""
    coefficient, table = filters
    coefficient = coefficient.expand(-1, -1, -1, geometry.taps)
    table = table.expand(coefficient.shape[1], -1, -1, -1, geometry.taps)
    bank = torch.einsum("btjk,tjoik->btoik", coefficient, table)
    return bank.unflatten(-1, geometry.kernel)


def all_outputs(image: Tensor, bank: Tensor, geometry: Geometry) -> Tensor:
    """What each filter makes of each pixel: [batch, m, out, h, w]."""
    made = [
        functional.conv2d(
            one[None],
            filters.flatten(0, 1),
            stride=geometry.stride,
            padding=geometry.padding,
            groups=1,
        )
        if geometry.groups == 1
        else torch.cat(
            [
                functional.conv2d(
                    one[None],
                    its,
                    stride=geometry.stride,
                    padding=geometry.padding,
                    groups=geometry.groups,
                )
                for its in filters
            ],
            1,
        )
        for one, filters in zip(image, bank, strict=True)
    ]
    return torch.cat(made).unflatten(1, (bank.shape[1], -1))


def dense(
    image: Tensor,
    guide: Tensor,
    filters: Filters,
    geometry: Geometry,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The output; its gradients are the paper's."""
    every = all_outputs(image, bank_of(filters, geometry), geometry)
    mask = guide.argmax(1) if mask is None else mask.long()
    chosen = functional.one_hot(mask, guide.shape[1]).permute(0, 3, 1, 2)[:, :, None]
    weight = guide.softmax(1)[:, :, None]
    out = (chosen * every).sum(1) + ((weight - weight.detach()) * every.detach()).sum(1)
    return out if bias is None else out + bias[:, None, None]
