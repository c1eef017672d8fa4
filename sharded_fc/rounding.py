"""Stochastic rounding of float32 to two bytes: up or down by chance, right in the mean.

Rounding to nearest loses every update below half a unit of the last place, and a unit of bfloat16
is 1/256 of the value; here the mean of the rounded value is the value (Gupta et al. 2015,
arXiv:1502.02551, section 3.1). The chances come from a hash of (seed, step, tensor, row, column),
so the same row rounds the same way on any device, at any world size and in any chunk.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.counter import ROUNDING, extend, key_of

_PIECES = 4  # 16-bit pieces of a hash; the columns 4 i .. 4 i + 3 share hash i
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_QUIET = 0x00400000  # set in every NaN that hardware makes, and kept in the upper half
_LARGEST_BFLOAT16 = 0x7F7FFFFF  # any pattern below infinity
_LARGEST_FLOAT16 = 0x477FE000  # 65504
_SMALLEST_NORMAL_FLOAT16 = 0x38800000  # 2^-14
_REBIAS = 127 - 15 << 23  # a float's exponent over float16's


Key = int | Int[Tensor, ""]


def rounding_key(*, seed: int, step: int | Int[Tensor, ""], tensor: int) -> Key:
    """The key of one tensor in one step: a number or, where `step` is one, a tensor beside it."""
    if isinstance(step, int):
        return key_of(seed, ROUNDING, tensor, step)
    return extend(key_of(seed, ROUNDING, tensor), step)


def round_stochastically(
    value: Float[Tensor, "n d"],
    dtype: torch.dtype,
    *,
    key: Key,
    first_row: int | Int[Tensor, " n"],
) -> Float[Tensor, "n d"]:
    """Values in bfloat16 or float16; `first_row` is the global row of the first, or those of all.

    Exactly unbiased, but for float16 below 2^-14, where a value is first rounded to the nearest
    multiple of 2^-37. What a dtype holds exactly stays. Finite values saturate, infinities and NaNs
    stay such.
    """
    chance = _chances(value, key, first_row)
    bits = value.contiguous().view(torch.int32)
    magnitude = bits & _MAGNITUDE
    if dtype == torch.bfloat16:
        finite = (magnitude + chance).clamp_max_(_LARGEST_BFLOAT16) >> 16
        special = magnitude >> 16
        quiet = _QUIET >> 16
    elif dtype == torch.float16:
        # In units of 2^-37 below 2^-14, above in the last place of a float with float16's bias.
        small = (value.abs() + 2.0**-14).view(torch.int32) - (127 - 14 << 23)
        exact = torch.where(magnitude < _SMALLEST_NORMAL_FLOAT16, small, magnitude - _REBIAS)
        finite = (exact + (chance & 0x1FFF)).clamp_max_(_LARGEST_FLOAT16 - _REBIAS) >> 13
        special = torch.full_like(magnitude, 0x7C00)
        quiet = 0x0200
    else:
        raise ValueError(f"stochastic rounding to {dtype}; use bfloat16 or float16")
    special = torch.where(magnitude > _INFINITY, special | quiet, special)
    rounded = torch.where(magnitude < _INFINITY, finite, special)
    rounded |= (bits >> 16) & 0x8000
    return rounded.to(torch.int16).view(dtype)


def _chances(value: Tensor, key: Key, first_row: int | Tensor) -> Tensor:
    """Sixteen random bits for each element, int32 in [0, 65536)."""
    num_rows, dim = value.shape
    if isinstance(first_row, Tensor):
        row = first_row
    else:
        row = torch.arange(first_row, first_row + num_rows, dtype=torch.int64, device=value.device)
    group = torch.arange(-(-dim // _PIECES), dtype=torch.int64, device=value.device)
    bits = extend(extend(key, row).unsqueeze(1), group)
    # A lone column may come with any stride, and only stride 1 can be seen as smaller elements.
    pieces = bits.as_strided(bits.shape, (bits.shape[1], 1)).view(torch.int16)
    return pieces[:, :dim].to(torch.int32) & 0xFFFF
