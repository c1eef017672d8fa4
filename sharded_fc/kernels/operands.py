"""Rows of unit length, as half-precision products take them, and their lengths, in one pass."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sharded_fc.kernels.configurations import power_of_two

# The same bound as torch.nn.functional.normalize: a shorter row has no direction.
_SHORTEST = tl.constexpr(1e-12)
_ELEMENTS = 2048  # of a program, by 128 threads: each has 16, in loads of 16 bytes
_WARPS = 4


def unit_rows(
    centre: Float[Tensor, "rows dim"],
    *,
    inverse_norm: Float[Tensor, " rows"],
    out: Float[Tensor, "rows dim"],
) -> None:
    """Write one over the rows' lengths, and the rows at unit length in the operands' dtype.

    A row shorter than 1e-12 gives zeros; a length that is not a number stays such.
    """
    assert centre.is_contiguous()
    assert out.is_contiguous()
    num_rows, dim = centre.shape
    arguments = shape(dim)
    grid = (-(-num_rows // arguments["ROWS"]),)
    unit_kernel[grid](centre, inverse_norm, out, num_rows, dim, **arguments)


def shape(dim: int) -> dict[str, int]:
    """How many rows a program of `unit_rows` takes, and by how many threads."""
    columns = power_of_two(dim)
    return {"ROWS": max(_ELEMENTS // columns, 1), "COLUMNS": columns, "num_warps": _WARPS}


@triton.jit
@no_type_check
def unit_kernel(
    centre,
    inverse_norm,
    out,
    num_rows,
    dim,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """`unit_rows` of a few rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    at = row.to(tl.int64)[:, None] * dim + column[None, :]
    there = (row < num_rows)[:, None] & (column < dim)[None, :]
    value = tl.load(centre + at, mask=there, other=0.0).to(tl.float32)
    length = tl.sqrt_rn(tl.sum(value * value, 1))
    # A length that is not a number stays out of the guard: the sums must show it.
    short = length <= _SHORTEST
    inverse = tl.where(short, 0.0, tl.div_rn(1.0, tl.where(short, 1.0, length)))
    tl.store(inverse_norm + row, inverse, mask=row < num_rows)
    tl.store(out + at, (value * inverse[:, None]).to(out.dtype.element_ty), mask=there)
