"""The two passes over a chunk's products as one kernel each: what `tile` does, in place of it.

The products come from the matrix library. A pass reads them once; the first writes a few sums, the
second the gradients, in whatever dtype the next products take. Signatures and meaning are those of
`tile.sum_tile` and `tile.gradient_tile`, in float32 arithmetic. Classes of several rows go there.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sharded_fc import tile
from sharded_fc.kernels import epilogue, fold
from sharded_fc.kernels.configurations import ELEMENTWISE


def sum_tile(
    product: Float[Tensor, "rows batch"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: tile.Rules,
    measures: Float[Tensor, "measures batch"],
    keep_maximum: bool,
    out: Float[Tensor, "rows batch"],
) -> None:
    """Add a chunk's negatives to `measures`; `product` stays as it is, `out` is not used.

    As `tile.sum_tile`, but a logit that is not a number shows in `measures[TOTAL]` alone.
    """
    if rules.sub_centres > 1:
        tile.sum_tile(
            product,
            inverse_norm,
            first_class=first_class,
            rules=rules,
            measures=measures,
            keep_maximum=keep_maximum,
            out=out,
        )
        return
    assert product.is_contiguous()
    num_rows, batch = product.shape
    grid = ELEMENTWISE.grid(num_rows, batch)
    partial = fold.empty_partials(
        grid[0], batch, rules=rules, keep_maximum=keep_maximum, device=product.device
    )
    sum_kernel[grid](
        product,
        num_rows,
        batch,
        inverse_norm,
        first_class,
        epilogue.RuleArguments.of(rules),
        measures,
        partial,
        keep_maximum=keep_maximum and rules.sigmoid_bias is None,
        **ELEMENTWISE.arguments,
    )
    fold.add_up(partial, measures=measures, rules=rules, keep_maximum=keep_maximum)


def gradient_tile(
    product: Float[Tensor, "rows batch"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: tile.Rules,
    weights: tile.Weights,
    out: Float[Tensor, "rows batch"],
) -> Float[Tensor, " rows"]:
    """Write d loss / d (row . embedding) to `out`, of any dtype; return what multiplies each row.

    As `tile.gradient_tile`, but `product` stays as it is unless it is also `out`.
    """
    if rules.sub_centres > 1:
        full = out if out.dtype == product.dtype else torch.empty_like(product)
        along = tile.gradient_tile(
            product,
            inverse_norm,
            first_class=first_class,
            rules=rules,
            weights=weights,
            out=full,
        )
        if full is not out:
            out.copy_(full)
        return along
    assert product.is_contiguous()
    assert out.is_contiguous()
    num_rows, batch = product.shape
    grid = ELEMENTWISE.grid(num_rows, batch)
    factor, device_factor = epilogue.factors(weights.factor)
    along = torch.empty(grid[1], num_rows, dtype=torch.float32, device=product.device)
    gradient_kernel[grid](
        product,
        num_rows,
        batch,
        inverse_norm,
        first_class,
        epilogue.RuleArguments.of(rules),
        weights.offset,
        weights.target,
        factor,
        device_factor,
        out,
        along,
        **ELEMENTWISE.arguments,
    )
    return along.sum(0)


@triton.jit(do_not_specialize=["first_class"])
@no_type_check
def sum_kernel(
    product,
    num_rows,
    batch,
    inverse_norm,
    first_class,
    rules,
    measures,
    partial,
    keep_maximum: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """`sum_tile` of one tile."""
    block = tl.program_id(0)
    first_row = block * ROWS
    row = first_row + tl.arange(0, ROWS)
    sample = tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)
    epilogue.store_sums(
        _load(product, first_row, row, sample, num_rows, batch),
        row,
        sample,
        num_rows,
        batch,
        inverse_norm,
        first_class,
        rules,
        measures,
        partial,
        block,
        tl.num_programs(0),
        keep_maximum,
    )


@triton.jit(do_not_specialize=["first_class"])
@no_type_check
def gradient_kernel(
    product,
    num_rows,
    batch,
    inverse_norm,
    first_class,
    rules,
    offset,
    target,
    factor,
    device_factor,
    out,
    along,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """`gradient_tile` of one tile."""
    sample_block = tl.program_id(1)
    first_row = tl.program_id(0) * ROWS
    row = first_row + tl.arange(0, ROWS)
    sample = sample_block * SAMPLES + tl.arange(0, SAMPLES)
    epilogue.store_gradient(
        _load(product, first_row, row, sample, num_rows, batch),
        first_row,
        row,
        sample,
        num_rows,
        batch,
        inverse_norm,
        first_class,
        rules,
        offset,
        target,
        factor,
        device_factor,
        out,
        along,
        sample_block,
    )


@triton.jit
@no_type_check
def _load(product, first_row, row, sample, num_rows, batch):
    at, there = epilogue.tile_at(product, first_row, row, sample, num_rows, batch)
    return tl.load(at, mask=there, other=0.0).to(tl.float32)
