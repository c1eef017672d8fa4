"""What the kernels of every convolution by regions are told, and what they find."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.layers.drconv.parts import Filters


class Found(NamedTuple):
    """The gradients of all but the guide; None where nobody asked."""

    image: Tensor | None
    slopes: Tensor | None  # q of eq. 7, [batch, m, pixels]
    coefficient: Tensor | None
    table: Tensor | None


def blocks(number: int, size: int) -> int:
    """How many blocks of a size hold that number."""
    return -(-number // size)


def filter_arguments(filters: Filters) -> dict[str, Any]:
    """The tables and the coefficients, with the strides that every kernel needs."""
    coefficient, table = filters
    return {
        "coefficient": coefficient,
        "table": table,
        "terms": table.shape[1],
        "of_own": table.stride(0) if len(table) > 1 else 0,
        "of_term": table.stride(1),
        "of_tap": table.stride(4) if table.shape[4] > 1 else 0,
        "sample_factors": coefficient.stride(0),
        "region_factors": coefficient.stride(1),
        "term_factors": coefficient.stride(2),
        "tap_factors": coefficient.stride(3) if coefficient.shape[3] > 1 else 0,
    }


def slopes_from(responses: Callable[[Filters], Tensor], filters: Filters) -> Tensor:
    """Eq. 7's slopes, from what gives filters' responses to the gradient, [batch, any, pixels].

    Tables that regions share, with one weight for all taps, are asked as if they were filters: one
    product with each, for all regions.
    """
    coefficient, table = filters
    if len(table) > 1 or coefficient.shape[3] > 1:
        return responses(filters)
    ones = coefficient.new_ones(1, 1, 1, 1).expand(len(coefficient), table.shape[1], 1, 1)
    of_tables = responses(Filters(ones, table.transpose(0, 1)))
    return torch.bmm(coefficient[..., 0].float(), of_tables)
