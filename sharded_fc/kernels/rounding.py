"""Stochastic rounding inside kernels: the bits of `sharded_fc.rounding`.

One 64-bit hash of (key, row, column // 4) serves four columns with sixteen bits each.
"""

from typing import no_type_check

import triton
import triton.language as tl

from sharded_fc import counter

_GOLDEN = tl.constexpr(counter.GOLDEN)
_FIRST_MULTIPLIER = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND_MULTIPLIER = tl.constexpr(0x94D049BB133111EB)


@triton.jit
@no_type_check
def step_key(key, step):
    """`rounding_key` of a step that lies on the device; `key` is that of seed and tensor."""
    return _extend(key.to(tl.uint64), tl.load(step))


@triton.jit
@no_type_check
def chances(key, row, column):
    """Sixteen random bits for each element of rows x columns, in any order."""
    bits = _extend(_extend(key, row)[:, None], (column // 4)[None, :])
    return (bits >> (16 * (column % 4)).to(tl.uint64)[None, :]).to(tl.int32) & 0xFFFF


@triton.jit
@no_type_check
def chances_in_order(key, row, first_column, COLUMNS: tl.constexpr):
    """`chances` of columns that follow one another from a multiple of four; a quarter the work."""
    group = first_column // 4 + tl.arange(0, COLUMNS // 4)
    bits = _extend(_extend(key, row)[:, None], group[None, :])
    piece = (16 * tl.arange(0, 4)).to(tl.uint64)
    pieces = (bits[:, :, None] >> piece[None, None, :]).to(tl.int32) & 0xFFFF
    return tl.reshape(pieces, (row.shape[0], COLUMNS))


@triton.jit
@no_type_check
def narrow(value, chance, dtype: tl.constexpr):
    """float32 rounded to bfloat16 or float16 by `chance`."""
    bits = value.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    if dtype == tl.bfloat16:
        finite = tl.minimum(magnitude + chance, 0x7F7FFFFF) >> 16
        special = magnitude >> 16
        special = tl.where(magnitude > 0x7F800000, special | 0x40, special)
    else:
        # In units of 2^-37 below 2^-14, above in the last place of a float with float16's bias.
        small = (tl.abs(value) + 2.0**-14).to(tl.int32, bitcast=True) - (113 << 23)
        exact = tl.where(magnitude < 0x38800000, small, magnitude - (112 << 23))
        finite = tl.minimum(exact + (chance & 0x1FFF), 0x0F7FE000) >> 13
        special = tl.where(magnitude > 0x7F800000, 0x7E00, 0x7C00)
    rounded = tl.where(magnitude < 0x7F800000, finite, special) | ((bits >> 16) & 0x8000)
    return rounded.to(tl.int16).to(dtype, bitcast=True)


@triton.jit
@no_type_check
def _extend(key, value):
    """The key hashed on with a value: splitmix64's finaliser."""
    key = value.to(tl.uint64) * _GOLDEN + key
    key = (key ^ (key >> 30)) * _FIRST_MULTIPLIER
    key = (key ^ (key >> 27)) * _SECOND_MULTIPLIER
    return key ^ (key >> 31)
