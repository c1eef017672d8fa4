"""The two passes over a chunk's products with the product inside: what no matrix library writes.

The first pass reads rows and embeddings and leaves a few sums: no product ever reaches memory. The
second leaves the tile of gradients in the dtype that the two remaining products take, and what
multiplies each row. Operands are float16, bfloat16 or float32 (not rounded to tf32); sums of
products are in float32. Classes of one row only: several go through `elementwise`.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton import knobs

from sharded_fc import tile
from sharded_fc.kernels import epilogue, fold
from sharded_fc.kernels.configurations import architecture, fused_tile

# bfloat16 dots are wrong in Triton's interpreter (3.7), which multiplies the bit patterns.
_INTERPRETED = tl.constexpr(knobs.runtime.interpret)


def sum_rows(
    rows: Float[Tensor, "rows dim"],
    embedding: Float[Tensor, "batch dim"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: tile.Rules,
    measures: Float[Tensor, "measures batch"],
    keep_maximum: bool,
) -> None:
    """Add a chunk's negatives to `measures`, as `tile.sum_tile` does for rows @ embedding.T.

    A chunk may be as large as one likes: it leaves a few floats a sample for every 128 rows.
    """
    num_rows, batch = _check(rows, embedding, rules)
    shape = fused_tile(rows.dtype, batch, architecture(rows.device))
    row_blocks, sample_blocks = shape.grid(num_rows, batch)
    partial = fold.empty_partials(
        row_blocks, batch, rules=rules, keep_maximum=keep_maximum, device=rows.device
    )
    sum_kernel[(row_blocks * sample_blocks,)](
        rows,
        embedding,
        rows.shape[1],
        num_rows,
        batch,
        inverse_norm,
        first_class,
        epilogue.RuleArguments.of(rules),
        measures,
        partial,
        keep_maximum=keep_maximum and rules.sigmoid_bias is None,
        even=rows.shape[1] % shape.arguments["DEPTH"] == 0,
        **shape.arguments,
    )
    fold.add_up(partial, measures=measures, rules=rules, keep_maximum=keep_maximum)


def gradient_rows(
    rows: Float[Tensor, "rows dim"],
    embedding: Float[Tensor, "batch dim"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: tile.Rules,
    weights: tile.Weights,
    out: Float[Tensor, "rows batch"],
) -> Float[Tensor, " rows"]:
    """Write d loss / d (row . embedding) to `out`, of any dtype; return what multiplies each row.

    As `tile.gradient_tile` for rows @ embedding.T.
    """
    num_rows, batch = _check(rows, embedding, rules)
    assert out.is_contiguous()
    shape = fused_tile(rows.dtype, batch, architecture(rows.device))
    row_blocks, sample_blocks = shape.grid(num_rows, batch)
    factor, device_factor = epilogue.factors(weights.factor)
    along = torch.empty(
        sample_blocks * shape.parts, num_rows, dtype=torch.float32, device=rows.device
    )
    gradient_kernel[(row_blocks * sample_blocks,)](
        rows,
        embedding,
        rows.shape[1],
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
        even=rows.shape[1] % shape.arguments["DEPTH"] == 0,
        **shape.arguments,
    )
    return along.sum(0)


def _check(rows: Tensor, embedding: Tensor, rules: tile.Rules) -> tuple[int, int]:
    if rules.sub_centres > 1:
        raise ValueError(
            f"{rules.sub_centres} rows a class in a fused pass; use elementwise.sum_tile and "
            "gradient_tile, which take a class's best row"
        )
    if rows.dtype != embedding.dtype:
        raise ValueError(
            f"rows in {rows.dtype}, embeddings in {embedding.dtype}; convert one of them"
        )
    assert rows.is_contiguous()
    assert embedding.is_contiguous()
    return len(rows), len(embedding)


@triton.jit(do_not_specialize=["first_class"])
@no_type_check
def sum_kernel(
    rows,
    embedding,
    dim,
    num_rows,
    batch,
    inverse_norm,
    first_class,
    rules,
    measures,
    partial,
    keep_maximum: tl.constexpr,
    even: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
):
    """`sum_rows` of one tile."""
    block, sample_block = _place(batch, SAMPLES)
    row = block * ROWS + tl.arange(0, ROWS)
    product = _products(
        rows, embedding, row, sample_block * SAMPLES, num_rows, batch, dim, even, SAMPLES, DEPTH
    )
    parts = _split(product, PARTS)
    for part in tl.static_range(PARTS):
        first = sample_block * SAMPLES + part * (SAMPLES // PARTS)
        epilogue.store_sums(
            parts[part],
            row,
            first + tl.arange(0, SAMPLES // PARTS),
            num_rows,
            batch,
            inverse_norm,
            first_class,
            rules,
            measures,
            partial,
            block,
            tl.cdiv(num_rows, ROWS),
            keep_maximum,
        )


@triton.jit(do_not_specialize=["first_class"])
@no_type_check
def gradient_kernel(
    rows,
    embedding,
    dim,
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
    even: tl.constexpr,
    ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
):
    """`gradient_rows` of one tile."""
    block, sample_block = _place(batch, SAMPLES)
    row = block * ROWS + tl.arange(0, ROWS)
    product = _products(
        rows, embedding, row, sample_block * SAMPLES, num_rows, batch, dim, even, SAMPLES, DEPTH
    )
    parts = _split(product, PARTS)
    for part in tl.static_range(PARTS):
        first = sample_block * SAMPLES + part * (SAMPLES // PARTS)
        epilogue.store_gradient(
            parts[part],
            block * ROWS,
            row,
            first + tl.arange(0, SAMPLES // PARTS),
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
            sample_block * PARTS + part,
        )


@triton.jit
@no_type_check
def _place(batch, SAMPLES: tl.constexpr):
    """Which tile is this program's: all of a block of rows at once, so they are read once."""
    sample_blocks = tl.cdiv(batch, SAMPLES)
    return tl.program_id(0) // sample_blocks, tl.program_id(0) % sample_blocks


@triton.jit
@no_type_check
def _split(product, PARTS: tl.constexpr):
    """Pieces of a tile's samples, one after the other, so that one piece is worked on at a time."""
    parts = (product,)
    if PARTS >= 2:
        parts = _halves(product)
    if PARTS == 4:
        parts = _halves(parts[0]) + _halves(parts[1])
    return parts


@triton.jit
@no_type_check
def _halves(product):
    pairs = tl.reshape(product, (product.shape[0], 2, product.shape[1] // 2))
    return tl.split(tl.permute(pairs, (0, 2, 1)))


@triton.jit
@no_type_check
def _products(
    rows,
    embedding,
    row,
    first_sample,
    num_rows,
    batch,
    dim,
    even: tl.constexpr,
    SAMPLES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A tile of rows @ embedding.T; beyond the edges it holds those of other rows: mask them."""
    sample = first_sample + tl.arange(0, SAMPLES)
    column = tl.arange(0, DEPTH)
    left_at = rows + (row % num_rows).to(tl.int64)[:, None] * dim + column[None, :]
    right_at = embedding + (sample % batch).to(tl.int64)[None, :] * dim + column[:, None]
    product = tl.zeros((row.shape[0], SAMPLES), tl.float32)
    for start in range(0, dim, DEPTH):
        if even:
            left = tl.load(left_at)
            right = tl.load(right_at)
        else:
            left = tl.load(left_at, mask=(start + column < dim)[None, :], other=0.0)
            right = tl.load(right_at, mask=(start + column < dim)[:, None], other=0.0)
        if _INTERPRETED:
            left = left.to(tl.float32)
            right = right.to(tl.float32)
        product = tl.dot(left, right, product, input_precision="ieee")
        left_at += DEPTH
        right_at += DEPTH
    return product
