"""Sums over rows inside kernels, in the order of adding of `sharded_fc.optimizer`."""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def folding_order(dim: tl.constexpr, COLUMNS: tl.constexpr):
    """Columns in places where halving sums adds up the pairs that torch's path does.

    There the right half of a row is added onto its left until one number is left, the middle of an
    odd width waiting a round. Column e stands at the place whose bits say in which half e lay,
    round by round, the first round highest; places that no column takes are empty.
    """
    place = tl.arange(0, COLUMNS)
    column = tl.zeros((COLUMNS,), tl.int32)
    real = place >= 0
    for bit in tl.static_range(0, 16):
        if (1 << bit) < COLUMNS:
            # The widths after and before the round that this bit belongs to.
            column += ((place >> bit) & 1) * tl.cdiv(dim, COLUMNS >> bit)
            real = real & (column < tl.cdiv(dim, COLUMNS >> (bit + 1)))
    return column, real


@triton.jit
@no_type_check
def folded_sums(value, COLUMNS: tl.constexpr):
    """Sums over rows, the right half onto the left until one column is left."""
    for bit in tl.static_range(0, 16):
        if (1 << bit) < COLUMNS:
            value = tl.sum(tl.reshape(value, (value.shape[0], 2, value.shape[1] // 2)), 1)
    return tl.reshape(value, (value.shape[0],))
