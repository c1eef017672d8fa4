"""The row updates, rows caught up, and first values in compiled code, for rows on a CPU.

The functions have their twins in torch (optimizer.py, catch_up.py, initial.py), give the same bits,
and say where they did nothing and the twin has to do the work.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.native_code import library

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_MOST_STATES = 2


class _Table(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("key", ctypes.c_uint64), ("type", ctypes.c_int32))


class _Slice(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("dim", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("first_row", ctypes.c_int64),
        ("index", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        ("centre", _Table),
        ("state", _Table * _MOST_STATES),
        ("gradient", _Table),
        ("along", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Operands:
    """What an update works on: the centres and the states, with the rounding key of each.

    `first_row` is the global number of the tables' first row, or `numbers` has those of all;
    `index` says which rows are meant.
    """

    tables: Sequence[Tensor]
    keys: Sequence[int]
    first_row: int
    gradient: Tensor
    along: Tensor | None
    index: Int[Tensor, " n"] | None = None
    numbers: Int[Tensor, " all"] | None = None


def update(
    kind: Literal["sgd", "adamw", "row_wise"], operands: Operands, numbers: Sequence[float]
) -> bool:
    """Update the rows by the function of this name in native_rows.cpp; False if nothing was done.

    `numbers` are its arguments after the slice.
    """
    tensors = [*operands.tables, operands.gradient]
    suited = all(tensor.is_cpu and tensor.is_contiguous() for tensor in tensors)
    if not suited or operands.gradient.dtype not in _TYPES:
        return False
    code = library()
    if code is None:
        return False
    tables = [
        _Table(tensor.data_ptr(), key, _TYPES[tensor.dtype])
        for tensor, key in zip(operands.tables, operands.keys, strict=True)
    ]
    along = None if operands.along is None else operands.along.contiguous()
    index = None if operands.index is None else operands.index.contiguous()
    numbers_of_rows = None if operands.numbers is None else operands.numbers.contiguous()
    rows, dim = operands.gradient.shape
    described = _Slice(
        rows=rows,
        dim=dim,
        threads=torch.get_num_threads(),
        first_row=operands.first_row,
        index=None if index is None else index.data_ptr(),
        numbers=None if numbers_of_rows is None else numbers_of_rows.data_ptr(),
        centre=tables[0],
        state=(_Table * _MOST_STATES)(*tables[1:]),
        gradient=_Table(operands.gradient.data_ptr(), 0, _TYPES[operands.gradient.dtype]),
        along=None if along is None else along.data_ptr(),
    )
    code[kind](ctypes.byref(described), *(ctypes.c_float(number) for number in numbers))
    return True


def catch_up(
    tables: Sequence[Tensor],
    keys: Sequence[int],
    *,
    first_row: int,
    index: Int[Tensor, " n"],
    numbers: Int[Tensor, " all"] | None,
    matrix: Float[Tensor, "n 2 2"],
    to: Float[Tensor, "n dim"] | None,
) -> bool:
    """Multiply (centre, state) by each row's matrix; False if not done.

    Tables, keys and rows are told as in `Operands`. Rows are written back with their states; or the
    centres alone to `to`, of their dtype.
    """
    suited = all(each.is_cpu and each.is_contiguous() and each.dtype in _TYPES for each in tables)
    code = library() if suited and matrix.dtype == torch.float32 else None
    if code is None:
        return False
    described = [
        _Table(table.data_ptr(), key, _TYPES[table.dtype])
        for table, key in zip(tables, keys, strict=True)
    ]
    index, matrix = index.contiguous(), matrix.contiguous()
    numbers = None if numbers is None else numbers.contiguous()
    dim = tables[0].shape[1]
    which = _Slice(
        rows=len(index),
        dim=dim,
        threads=torch.get_num_threads(),
        first_row=first_row,
        index=index.data_ptr(),
        numbers=None if numbers is None else numbers.data_ptr(),
        centre=described[0],
        state=(_Table * _MOST_STATES)(*described[1:]),
    )
    code["catch_up"](
        ctypes.byref(which),
        ctypes.c_void_p(matrix.data_ptr()),
        ctypes.c_int64(len(tables) - 1),
        ctypes.c_int64(all(table.shape[1] == dim for table in tables)),
        None if to is None else ctypes.c_void_p(to.data_ptr()),
    )
    return True


def initial_rows(to: Tensor, *, number: Int[Tensor, " n"], seed_key: int, scale: float) -> bool:
    """Write the first values of rows of global numbers to a float32 [n, d]; False if not done."""
    code = library() if to.is_cpu else None
    if code is None:
        return False
    rows, dim = to.shape
    number = number.contiguous()
    code["initial_rows"](
        ctypes.c_void_p(to.data_ptr()),
        ctypes.c_void_p(number.data_ptr()),
        ctypes.c_int64(rows),
        ctypes.c_int64(dim),
        ctypes.c_uint64(seed_key),
        ctypes.c_float(scale),
        ctypes.c_int64(torch.get_num_threads()),
    )
    return True
