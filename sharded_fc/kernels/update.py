"""The optimizers' updates of a slice of rows as one kernel each, on rows kept in up to 32 bits.

Bit for bit what `sharded_fc.optimizer` computes with torch: the same operations in the same order,
each rounded by itself, and stochastic rounding from the same hash. The device's own `step` and
`skip` are read in the kernel, so the host waits for nothing.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.counter import ROUNDING, key_of, signed
from sharded_fc.kernels import rounding, row_sums
from sharded_fc.kernels.configurations import power_of_two
from sharded_fc.optimizer import SGD, AdamW, Optimizer, RowWise
from sharded_fc.storage import RowSlice

_ELEMENTS = 2048  # of a program, by 128 threads: each has 16, in loads of 16 bytes
_COLUMNS = 512
_WARPS = 4


def update(
    optimizer: Optimizer,
    rows: RowSlice,
    gradient: Float[Tensor, "n d"],
    along: Float[Tensor, " n"] | None,
    *,
    learning_rate: float,
    step: Int[Tensor, ""],
    seed: int,
    skip: Bool[Tensor, ""],
) -> None:
    """`optimizer.update(rows, gradient, ...)`; the gradient, in float32, stays as it is."""
    num_rows, dim = gradient.shape
    tables = [rows.centre, *rows.state.values()]
    assert gradient.is_contiguous()
    assert all(table.is_contiguous() for table in tables)
    keys = [signed(key_of(seed, ROUNDING, tensor)) for tensor in range(len(tables))]
    arguments = shape(dim, whole=isinstance(optimizer, RowWise))
    arguments["moves"] = learning_rate != 0
    grid = (-(-num_rows // arguments["ROWS"]), -(-dim // arguments["COLUMNS"]))
    where = (rows.first, num_rows, gradient, along, step, skip)
    if isinstance(optimizer, SGD):
        momentum = rows.state.get("momentum")
        numbers = (learning_rate, optimizer.momentum, optimizer.weight_decay)
        sgd_kernel[grid](
            rows.centre,
            momentum,
            keys[0],
            keys[-1],
            *where,
            *numbers,
            dim=dim,
            decays=optimizer.weight_decay != 0,
            nesterov=optimizer.nesterov,
            **arguments,
        )
    elif isinstance(optimizer, AdamW):
        step_size, inverse_spread = _bias_corrections(optimizer, learning_rate, step)
        mean_share, square_share = (1 - beta for beta in optimizer.betas)
        centre_key, mean_key, square_key = keys
        adamw_kernel[grid](
            rows.centre,
            rows.state["mean"],
            rows.state["square"],
            centre_key,
            mean_key,
            square_key,
            *where,
            step_size,
            inverse_spread,
            mean_share,
            optimizer.betas[1],
            square_share,
            optimizer.eps,
            1 - learning_rate * optimizer.weight_decay,
            dim=dim,
            **arguments,
        )
    else:
        row_wise_kernel[grid](
            rows.centre,
            rows.state["square"],
            keys[0],
            *where,
            learning_rate,
            optimizer.beta,
            1 - optimizer.beta,
            1 / dim,
            optimizer.eps,
            1 - learning_rate * optimizer.weight_decay,
            dim=dim,
            **arguments,
        )


def shape(dim: int, *, whole: bool) -> dict[str, int]:
    """The tile of a program, which has `whole` rows or a part of them, and its threads.

    Multiplications and additions stay apart, so that each is rounded by itself.
    """
    columns = max(power_of_two(dim), 4)
    if not whole:
        columns = min(columns, _COLUMNS)
    rows = max(_ELEMENTS // columns, 1)
    return {"ROWS": rows, "COLUMNS": columns, "num_warps": _WARPS, "enable_fp_fusion": False}


def _bias_corrections(
    optimizer: AdamW, learning_rate: float, step: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    count = (step + 1).to(torch.float64)
    step_size = learning_rate / (1 - optimizer.betas[0] ** count)
    return step_size.float(), (1 - optimizer.betas[1] ** count).rsqrt().float()


@triton.jit(do_not_specialize=["centre_key", "momentum_key", "first_row"])
@no_type_check
def sgd_kernel(
    centre,
    momentum,
    centre_key,
    momentum_key,
    first_row,
    num_rows,
    gradient,
    along,
    step,
    skip,
    learning_rate,
    mu,
    weight_decay,
    dim: tl.constexpr,
    decays: tl.constexpr,
    nesterov: tl.constexpr,
    moves: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """`SGD.update` of a tile."""
    row, first, at, there = _tile(num_rows, skip, dim, ROWS, COLUMNS)
    number = first_row.to(tl.int64) + row
    value = tl.load(centre + at, mask=there, other=0.0).to(tl.float32)
    direction = _turned(gradient, along, value, row, at, there, num_rows)
    if decays:
        direction += value * weight_decay
    if momentum is not None:
        kept = tl.load(momentum + at, mask=there, other=0.0).to(tl.float32) * mu + direction
        _store(momentum, at, there, kept, momentum_key, step, number, first, COLUMNS, in_order=True)
        direction = direction + kept * mu if nesterov else kept
    if moves:
        value -= direction * learning_rate
        _store(centre, at, there, value, centre_key, step, number, first, COLUMNS, in_order=True)


@triton.jit(do_not_specialize=["centre_key", "mean_key", "square_key", "first_row"])
@no_type_check
def adamw_kernel(
    centre,
    mean,
    square,
    centre_key,
    mean_key,
    square_key,
    first_row,
    num_rows,
    gradient,
    along,
    step,
    skip,
    step_size,
    inverse_spread,
    mean_share,
    square_kept,
    square_share,
    eps,
    decay,
    dim: tl.constexpr,
    moves: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """`AdamW.update` of a tile."""
    row, first, at, there = _tile(num_rows, skip, dim, ROWS, COLUMNS)
    number = first_row.to(tl.int64) + row
    value = tl.load(centre + at, mask=there, other=0.0).to(tl.float32)
    turned = _turned(gradient, along, value, row, at, there, num_rows)
    average = tl.load(mean + at, mask=there, other=0.0).to(tl.float32)
    average = average + (turned - average) * mean_share
    _store(mean, at, there, average, mean_key, step, number, first, COLUMNS, in_order=True)
    spread = tl.load(square + at, mask=there, other=0.0).to(tl.float32) * square_kept
    spread += turned * turned * square_share
    _store(square, at, there, spread, square_key, step, number, first, COLUMNS, in_order=True)
    if moves:
        root = tl.sqrt_rn(spread) * tl.load(inverse_spread) + eps
        value = value * decay - tl.div_rn(average * tl.load(step_size), root)
        _store(centre, at, there, value, centre_key, step, number, first, COLUMNS, in_order=True)


@triton.jit(do_not_specialize=["centre_key", "first_row"])
@no_type_check
def row_wise_kernel(
    centre,
    square,
    centre_key,
    first_row,
    num_rows,
    gradient,
    along,
    step,
    skip,
    learning_rate,
    kept_share,
    new_share,
    inverse_dim,
    eps,
    decay,
    dim: tl.constexpr,
    moves: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """`RowWise.update` of some whole rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = (row < num_rows) & (tl.load(skip) == 0)
    column, real = row_sums.folding_order(dim, COLUMNS)
    at = row.to(tl.int64)[:, None] * dim + column[None, :]
    there = mine[:, None] & real[None, :]
    value = tl.load(centre + at, mask=there, other=0.0).to(tl.float32)
    turned = _turned(gradient, along, value, row, at, there, num_rows)
    mean_square = row_sums.folded_sums(turned * turned, COLUMNS) * inverse_dim
    kept = tl.load(square + row, mask=mine, other=0.0) * kept_share + mean_square * new_share
    tl.store(square + row, kept, mask=mine)
    if moves:
        rate = tl.div_rn(1.0, tl.sqrt_rn(kept) + eps) * learning_rate
        value = value * decay - turned * rate[:, None]
        number = first_row.to(tl.int64) + row
        if dim == COLUMNS:
            _store(centre, at, there, value, centre_key, step, number, 0, COLUMNS, in_order=True)
        else:
            _store(
                centre, at, there, value, centre_key, step, number, column, COLUMNS, in_order=False
            )


@triton.jit
@no_type_check
def _tile(num_rows, skip, dim: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """This program's rows and first column, where its tile lies, and what of it is to change."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    at = row.to(tl.int64)[:, None] * dim + column[None, :]
    there = (row < num_rows)[:, None] & (column < dim)[None, :]
    return row, first, at, there & (tl.load(skip) == 0)


@triton.jit
@no_type_check
def _turned(gradient, along, value, row, at, there, num_rows):
    """The gradient without its part along the row."""
    turned = tl.load(gradient + at, mask=there, other=0.0)
    if along is not None:
        turned -= value * tl.load(along + row, mask=row < num_rows, other=0.0)[:, None]
    return turned


@triton.jit
@no_type_check
def _store(
    table,
    at,
    there,
    value,
    key,
    step,
    number,
    column,
    COLUMNS: tl.constexpr,
    in_order: tl.constexpr,
):
    """Keep values in the table's dtype; `column` holds their columns, or the first of COLUMNS."""
    kept: tl.constexpr = table.dtype.element_ty
    if kept == tl.float32:
        tl.store(table + at, value, mask=there)
    else:
        key = rounding.step_key(key, step)
        if in_order:
            chance = rounding.chances_in_order(key, number, column, COLUMNS)
        else:
            chance = rounding.chances(key, number, column)
        tl.store(table + at, rounding.narrow(value, chance, kept), mask=there)
