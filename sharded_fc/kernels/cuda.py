"""The kernels under one roof, for rows computed in float32: what `choose` returns."""

from sharded_fc.kernels.elementwise import gradient_tile, sum_tile
from sharded_fc.kernels.fused import gradient_rows, sum_rows
from sharded_fc.kernels.operands import unit_rows
from sharded_fc.kernels.update import update

__all__ = [
    "gradient_rows",
    "gradient_tile",
    "sum_rows",
    "sum_tile",
    "unit_rows",
    "update",
]
