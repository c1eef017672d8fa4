"""A keyed permutation in compiled code, for a CPU; see native_draw.cpp."""

import ctypes

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.native_code import library

_SLACK = 8  # numbers written past the last


class Network(ctypes.Structure):
    """A permutation: see native_draw.cpp."""

    _fields_ = (
        ("key", ctypes.c_uint64),
        ("rounds", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


def network(key: int, *, rounds: int, rows: int, columns: int, size: int) -> Network:
    """The permutation of [0, size) that goes through [0, rows) x [0, columns)."""
    return Network(key % (1 << 64), rounds, rows, columns, size)


class _Wanted(ctypes.Structure):
    _fields_ = (
        ("network", Network),
        ("step", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "others", "first", "last")),
        ("known", ctypes.c_void_p),
        ("num_known", ctypes.c_int64),
        ("to", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        ("found", ctypes.c_int64),
    )


class FirstNumbers:
    """The first numbers of a permutation; or of one a step, whose key is hashed on with it."""

    def __init__(self, described: Network) -> None:
        self._wanted = _Wanted(described)

    def within(
        self,
        first: int,
        last: int,
        *,
        count: int,
        others: bool,
        known: Int[Tensor, " known"],
        step: Int[Tensor, ""] | None = None,
    ) -> Int[Tensor, " found"] | None:
        """Those of the first `count` numbers in [first, last), ascending, but `known`.

        With `others` of the first `count` that are not `known`. None if not done.
        """
        here = step is None or (step.is_cpu and step.dtype == torch.int64)
        code = library() if known.is_cpu and here else None
        if code is None:
            return None
        known = known.contiguous()
        to = torch.empty(min(count, last - first) + _SLACK, dtype=torch.int64)
        wanted = self._wanted
        wanted.step = None if step is None else step.data_ptr()
        wanted.count, wanted.others = count, others
        wanted.first, wanted.last = first, last
        wanted.known, wanted.num_known = known.data_ptr(), known.shape[0]
        wanted.to = to.data_ptr()
        wanted.threads = torch.get_num_threads()
        code["first_numbers"](ctypes.byref(wanted))
        return to.narrow(0, 0, wanted.found)


def places(described: Network, number: Int[Tensor, " n"]) -> Int[Tensor, " n"] | None:
    """The places of numbers in [0, size); None if not done."""
    code = library() if number.is_cpu else None
    if code is None:
        return None
    number = number.contiguous()
    to = torch.empty_like(number)
    code["places_of"](
        ctypes.byref(described),
        ctypes.c_void_p(number.data_ptr()),
        ctypes.c_int64(number.numel()),
        ctypes.c_void_p(to.data_ptr()),
    )
    return to


def end_of_others(described: Network, wanted: int, *, known: Int[Tensor, " known"]) -> int | None:
    """The place behind the first `wanted` numbers that are not `known`; None if not done."""
    code = library() if known.is_cpu else None
    if code is None:
        return None
    known = known.contiguous()
    end = ctypes.c_int64()
    code["end_of_others"](
        ctypes.byref(described),
        ctypes.c_int64(wanted),
        ctypes.c_void_p(known.data_ptr()),
        ctypes.c_int64(known.shape[0]),
        ctypes.byref(end),
    )
    return end.value
