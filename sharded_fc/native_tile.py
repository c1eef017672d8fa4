"""The two passes over a chunk's products and rows' lengths in compiled code, for CPUs.

They do what `tile` does, to rounding: their exp and the order of their sums are their own. Each
says where it did nothing, and `tile` has to do the work: for sub-centres, conflicts left out, sums
that follow the largest logit, and dtypes other than float32 and bfloat16.
"""

import ctypes

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc.native_code import library
from sharded_fc.tile import CONFLICTS, HIGHEST, SHIFT, SIGMOIDS, TOTAL, Rules, Weights

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PRODUCTS = (torch.float32, torch.bfloat16)


class _Tile(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("product", ctypes.c_void_p),
        ("inverse_norm", ctypes.c_void_p),
        ("own_row", ctypes.c_void_p),
        ("competing", ctypes.c_void_p),
        ("threshold", ctypes.c_void_p),
        ("sigmoid_bias", ctypes.c_void_p),
        ("constant", ctypes.c_float),
        ("linear", ctypes.c_float),
        ("square", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("type", ctypes.c_int32),
    )


def sum_tile(
    product: Float[Tensor, "rows batch"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: Rules,
    measures: Float[Tensor, "measures batch"],
    keep_maximum: bool,
) -> bool:
    """`tile.sum_tile`; False if nothing was done. `product` is left as it is."""
    code = None if keep_maximum else _code_for(product, inverse_norm, rules)
    if code is None:
        return False
    described = _Described(product, inverse_norm, first_class=first_class, rules=rules)
    shift = measures[SHIFT].float()
    limit = rules.conflict_logit
    code["sum_tile"](
        ctypes.byref(described.tile),
        _at(shift),
        None if limit is None else ctypes.byref(ctypes.c_float(limit)),
        _at(measures[TOTAL]),
        _at(measures[HIGHEST]),
        _at(measures[CONFLICTS]),
        _at(measures[SIGMOIDS]),
    )
    return True


def gradient_tile(
    product: Float[Tensor, "rows batch"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    first_class: int,
    rules: Rules,
    weights: Weights,
    out: Float[Tensor, "rows batch"],
) -> Float[Tensor, " rows"] | None:
    """`tile.gradient_tile`, rounded to the dtype of `out`; None if nothing was done.

    `product` is left as it is.
    """
    code = _code_for(product, inverse_norm, rules)
    if code is None or out.dtype not in _PRODUCTS or not out.is_contiguous():
        return None
    described = _Described(product, inverse_norm, first_class=first_class, rules=rules)
    offset, target = weights.offset.float().contiguous(), weights.target.float().contiguous()
    if rules.sigmoid_bias is not None:
        offset = offset * rules.negative_weight
    along = torch.empty_like(inverse_norm)
    code["gradient_tile"](
        ctypes.byref(described.tile),
        _at(offset),
        _at(target),
        ctypes.c_float(float(weights.factor)),
        _at(out),
        ctypes.c_int32(_TYPES[out.dtype]),
        _at(along),
    )
    return along


def measure_rows(
    table: Float[Tensor, "all dim"],
    inverse_norm: Float[Tensor, " rows"],
    *,
    shortest: float,
    index: Int[Tensor, " rows"] | None = None,
    copy: Float[Tensor, "rows dim"] | None = None,
) -> bool:
    """Write one over rows' lengths, 0 up to `shortest`; to `copy` the rows, rounded to nearest.

    The rows are those of `index`, or all. False if nothing was done.
    """
    return inverse_norm.dtype == torch.float32 and _pass_over(
        table, inverse_norm, shortest=shortest, index=index, copy=copy
    )


def copy_rows(
    centre: Float[Tensor, "all dim"],
    *,
    to: Float[Tensor, "rows dim"],
    index: Int[Tensor, " rows"] | None = None,
) -> bool:
    """Copy rows, those of `index` or all, to float32 or bfloat16; False if nothing was done."""
    return _pass_over(centre, None, shortest=0.0, index=index, copy=to)


def _pass_over(
    table: Tensor,
    inverse_norm: Tensor | None,
    *,
    shortest: float,
    index: Tensor | None,
    copy: Tensor | None,
) -> bool:
    suited = table.is_cpu and table.is_contiguous() and table.dtype in _TYPES
    suited = suited and (copy is None or (copy.dtype in _PRODUCTS and copy.is_contiguous()))
    code = library() if suited else None
    if code is None:
        return False
    index = None if index is None else index.contiguous()
    code["measure_rows"](
        _at(table),
        ctypes.c_int32(_TYPES[table.dtype]),
        None if index is None else _at(index),
        ctypes.c_int64(len(table) if index is None else len(index)),
        ctypes.c_int64(table.shape[1]),
        ctypes.c_float(shortest),
        None if inverse_norm is None else _at(inverse_norm),
        None if copy is None else _at(copy),
        ctypes.c_int32(0 if copy is None else _TYPES[copy.dtype]),
        ctypes.c_int64(torch.get_num_threads()),
    )
    return True


class _Described:
    """A `_Tile`, and the tensors it points to."""

    def __init__(
        self, product: Tensor, inverse_norm: Tensor, *, first_class: int, rules: Rules
    ) -> None:
        rows, batch = product.shape
        own_row, competing = rules.label, rules.class_range
        if own_row is not None:
            own_row = own_row - first_class  # nobody's class, -1, is before any row
        if competing is not None:
            competing = (competing - first_class).contiguous()
        hard = rules.hard
        threshold = None if hard is None else hard.threshold.float().contiguous()
        bias = None if rules.sigmoid_bias is None else rules.sigmoid_bias.float()
        self._kept = (product, inverse_norm, own_row, competing, threshold, bias)
        self.tile = _Tile(
            rows=rows,
            batch=batch,
            threads=torch.get_num_threads(),
            product=product.data_ptr(),
            inverse_norm=inverse_norm.data_ptr(),
            own_row=None if own_row is None else own_row.data_ptr(),
            competing=None if competing is None else competing.data_ptr(),
            threshold=None if threshold is None else threshold.data_ptr(),
            sigmoid_bias=None if bias is None else bias.data_ptr(),
            constant=0.0 if hard is None else float(hard.constant),
            linear=0.0 if hard is None else float(hard.linear),
            square=0.0 if hard is None else float(hard.square),
            scale=rules.scale,
            type=_TYPES[product.dtype],
        )


def _code_for(product: Tensor, inverse_norm: Tensor, rules: Rules) -> ctypes.CDLL | None:
    suited = (
        product.is_cpu
        and product.dtype in _PRODUCTS
        and inverse_norm.dtype == torch.float32
        and product.is_contiguous()
        and inverse_norm.is_contiguous()
        and rules.sub_centres == 1
        and not rules.ignore_conflicts
    )
    return library() if suited else None


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
