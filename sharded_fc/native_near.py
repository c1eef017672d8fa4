"""Signatures of rows, lists of them, and the search there in compiled code, for a CPU."""

import ctypes

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.native_code import library
from sharded_fc.sampling.lists import Lists

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Transform(ctypes.Structure):
    _fields_ = (
        ("dim", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("directions", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("flips", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
    )


class _Lists(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
        ("member", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("list", ctypes.c_void_p),
        ("places", ctypes.c_int64),
        ("words", ctypes.c_int64),
        ("first_row", ctypes.c_int64),
        ("threads", ctypes.c_int64),
    )


def rotate_rows(
    row: Float[Tensor, "rows dim"], *, columns: int, flips: Float[Tensor, " dim"]
) -> Float[Tensor, "rows columns"] | None:
    """The transforms of rows; None if not done."""
    suited = row.is_cpu and row.is_contiguous() and row.dtype == torch.float32
    code = library() if suited else None
    if code is None:
        return None
    how = _Transform(row.shape[1], columns, 0, 0, flips.data_ptr(), torch.get_num_threads())
    to = row.new_empty(len(row), columns)
    code["rotate_rows"](ctypes.byref(how), _at(row), ctypes.c_int64(len(row)), _at(to))
    return to


def sign_rows(
    table: Float[Tensor, "all dim"],
    index: Int[Tensor, " rows"],
    *,
    columns: int,
    directions: int,
    bits: int,
    flips: Float[Tensor, " dim"],
) -> tuple[Int[Tensor, " rows"], Int[Tensor, "words rows"]] | None:
    """The lists and codes of the rows of `index`; None if not done."""
    suited = table.is_cpu and table.is_contiguous() and table.dtype in _TYPES
    code = library() if suited else None
    if code is None:
        return None
    index = index.contiguous()
    how = _Transform(
        table.shape[1], columns, directions, bits, flips.data_ptr(), torch.get_num_threads()
    )
    number = torch.empty(len(index), dtype=torch.int32)
    codes = torch.empty(-(-bits // 64), len(index), dtype=torch.int64)
    code["sign_rows"](
        ctypes.byref(how),
        _at(table),
        ctypes.c_int32(_TYPES[table.dtype]),
        _at(index),
        ctypes.c_int64(len(index)),
        _at(number),
        _at(codes),
    )
    return number, codes


def move_rows(
    lists: Lists,
    index: Int[Tensor, " rows"],
    number: Int[Tensor, " rows"],
    code: Int[Tensor, "words rows"],
) -> int:
    """Give rows other lists and codes; how many were done before a list had no room."""
    compiled = library() if index.is_cpu else None
    if compiled is None or not len(index):
        return 0
    index, number, code = index.contiguous(), number.contiguous(), code.contiguous()
    moved = ctypes.c_int64()
    compiled["move_rows"](
        ctypes.byref(_described(lists, first_row=0)),
        _at(index),
        ctypes.c_int64(len(index)),
        _at(number),
        _at(code),
        ctypes.byref(moved),
    )
    return moved.value


def search_lists(
    lists: Lists,
    probed: Int[Tensor, "queries probes"],
    query_code: Int[Tensor, "words queries"],
    *,
    row_range: Int[Tensor, "queries 2"] | None,
    first_row: int,
    most: int,
) -> Int[Tensor, "queries most"] | None:
    """The members nearest to each query, as `near_index` numbers them; None if not done."""
    compiled = library() if lists.code.is_cpu else None
    if compiled is None:
        return None
    probed, query_code = probed.contiguous(), query_code.contiguous()
    ranges = None if row_range is None else row_range.contiguous()
    queries, probes = probed.shape
    found = torch.empty(queries, most, dtype=torch.int64)
    compiled["search_lists"](
        ctypes.byref(_described(lists, first_row=first_row)),
        _at(probed),
        _at(query_code),
        None if ranges is None else _at(ranges),
        ctypes.c_int64(queries),
        ctypes.c_int64(probes),
        ctypes.c_int64(most),
        _at(found),
    )
    return found


def _described(lists: Lists, *, first_row: int) -> _Lists:
    return _Lists(
        lists.start.data_ptr(),
        lists.count.data_ptr(),
        lists.member.data_ptr(),
        lists.code.data_ptr(),
        lists.place.data_ptr(),
        lists.list_of.data_ptr(),
        len(lists.member),
        len(lists.code),
        first_row,
        torch.get_num_threads(),
    )


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
