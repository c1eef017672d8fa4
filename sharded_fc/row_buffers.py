"""Some rows out of a table, gathered into buffers that lie together, and put back."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc.rounding import round_stochastically, rounding_key
from sharded_fc.storage import Rows, RowSlice, working_dtype


@dataclass(frozen=True)
class Writing:
    """What a write depends on: whether it happens, and the chances rounding takes."""

    skip: Bool[Tensor, ""]
    step: Int[Tensor, ""]
    seed: int


class RowBuffers:
    """Room for `capacity` rows and their optimizer's, in the working dtype.

    Numbers given to it count rows within the partition and ascend; none comes twice.
    """

    def __init__(self, rows: Rows, capacity: int) -> None:
        self._rows = rows
        self._working = working_dtype(rows.centre.dtype)
        self.capacity = capacity
        self.centre = self._like(rows.centre)
        self._state = {name: self._like(table) for name, table in rows.state.items()}
        self._narrow: dict[torch.dtype, Tensor] = {}

    def centres(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        """The rows' centres, valid until the next call of anything."""
        return self._read(self._rows.centre, index, self.centre)

    def states(self, index: Int[Tensor, " n"]) -> dict[str, Tensor]:
        """What the optimizer keeps for them."""
        return {
            name: self._read(table, index, self._state[name])
            for name, table in self._rows.state.items()
        }

    def slice(self, index: Int[Tensor, " n"]) -> RowSlice:
        """Both, to be changed and written back."""
        return RowSlice(self.centres(index), self.states(index), first=self._rows.start)

    def write(self, index: Int[Tensor, " n"], changed: RowSlice, how: Writing) -> None:
        """Put rows back; two-byte tables round by the chances that a step in place would take."""
        if how.skip.is_cpu and bool(how.skip):
            return
        tables = {"centre": self._rows.centre, **self._rows.state}
        for number, (name, table) in enumerate(tables.items()):
            value = changed.centre if name == "centre" else changed.state[name]
            if table.dtype.itemsize == 2:
                key = rounding_key(seed=how.seed, step=how.step, tensor=number)
                row = index + self._rows.start
                value = round_stochastically(value, table.dtype, key=key, first_row=row)
            elif table.dtype != value.dtype:
                value = value.to(table.dtype)
            if not how.skip.is_cpu:
                value = torch.where(how.skip, table[index], value)
            table[index] = value

    def _like(self, table: Tensor) -> Tensor:
        shape = (self.capacity, table.shape[1])
        return torch.empty(shape, dtype=self._working, device=table.device)

    def _read(self, table: Tensor, index: Tensor, to: Tensor) -> Tensor:
        out = to[: len(index)]
        if table.dtype == out.dtype:
            return torch.index_select(table, 0, index, out=out)
        return out.copy_(table.index_select(0, index))
