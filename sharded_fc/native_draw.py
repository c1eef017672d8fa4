"""The first numbers of a keyed permutation in compiled code, for a CPU; see native_draw.cpp."""

import ctypes

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.native_code import library

_SLACK = 8  # numbers written past the last


class _Network(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_uint64),
        ("rounds", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


def first_numbers(
    key: int,
    *,
    rounds: int,
    rows: int,
    columns: int,
    size: int,
    count: int,
    first: int,
    last: int,
    known: Int[Tensor, " known"],
) -> Int[Tensor, " found"] | None:
    """Those of the first `count` numbers in [first, last), ascending, but `known`.

    None if not done.
    """
    code = library() if known.is_cpu else None
    if code is None:
        return None
    known = known.contiguous()
    network = _Network(key % (1 << 64), rounds, rows, columns, size)
    to = torch.empty(min(count, last - first) + _SLACK, dtype=torch.int64)
    found = ctypes.c_int64()
    code["first_numbers"](
        ctypes.byref(network),
        ctypes.c_int64(count),
        ctypes.c_int64(first),
        ctypes.c_int64(last),
        ctypes.c_void_p(known.data_ptr()),
        ctypes.c_int64(len(known)),
        ctypes.c_void_p(to.data_ptr()),
        ctypes.byref(found),
    )
    return to[: found.value]
