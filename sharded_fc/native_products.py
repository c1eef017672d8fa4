"""Products of float32 matrices in compiled code, on AMD's CPUs.

torch's library, MKL, reaches 150 to 190 GFLOP/s there on two cores, and these 200. Narrow and small
products are left to it.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sharded_fc.native_code import library

_NARROWEST = 32  # columns: the width of a panel
_SMALLEST = 1 << 20  # numbers multiplied


class _Product(ctypes.Structure):
    _fields_ = (
        ("left", ctypes.c_void_p),
        ("left_row", ctypes.c_int64),
        ("left_depth", ctypes.c_int64),
        ("right", ctypes.c_void_p),
        ("right_depth", ctypes.c_int64),
        ("right_column", ctypes.c_int64),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("out_row", "rows", "depth", "columns")),
        ("add", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    )


def multiply(
    left: Float[Tensor, "rows depth"],
    right: Float[Tensor, "depth columns"],
    *,
    out: Float[Tensor, "rows columns"],
    add: bool = False,
) -> bool:
    """Write the product to `out`, or add it; False if nothing was done.

    Both may be transposed views; `out` has its columns next to each other. The same bits for any
    number of threads.
    """
    rows, depth, columns = *left.shape, right.shape[1]
    suited = (
        columns >= _NARROWEST
        and rows * depth * columns >= _SMALLEST
        and all(each.is_cpu and each.dtype == torch.float32 for each in (left, right, out))
        and out.stride(1) == 1
        and _of_amd()
    )
    code = library() if suited else None
    if code is None:
        return False
    product = _Product(
        left.data_ptr(),
        *left.stride(),
        right.data_ptr(),
        *right.stride(),
        out.data_ptr(),
        out.stride(0),
        *(rows, depth, columns),
        add,
        torch.get_num_threads(),
    )
    code["multiply"](ctypes.byref(product))
    return True


@cache
def _of_amd() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "AuthenticAMD" in info.read_text().split("\n\n")[0]
