"""The first numbers of a keyed permutation in compiled code, for a CPU; see native_draw.cpp."""

import ctypes

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.native_build import library


class _Network(ctypes.Structure):
    _fields_ = (
        ("tables", ctypes.c_void_p),
        ("rounds", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


def first_numbers(
    tables: Int[Tensor, "rounds columns"],
    *,
    rows: int,
    size: int,
    count: int,
    first: int,
    last: int,
) -> Int[Tensor, " found"] | None:
    """Those of the first `count` numbers in [first, last), ascending; None if not done."""
    code = library() if tables.is_cpu and tables.is_contiguous() else None
    if code is None:
        return None
    rounds, columns = tables.shape
    network = _Network(tables.data_ptr(), rounds, rows, columns, size)
    members = torch.zeros(-(-(last - first) // 64), dtype=torch.int64)
    to = torch.empty(min(count, last - first), dtype=torch.int64)
    found = ctypes.c_int64()
    code["first_numbers"](
        ctypes.byref(network),
        ctypes.c_int64(count),
        ctypes.c_int64(first),
        ctypes.c_int64(last),
        ctypes.c_void_p(members.data_ptr()),
        ctypes.c_void_p(to.data_ptr()),
        ctypes.byref(found),
    )
    return to[: found.value]
