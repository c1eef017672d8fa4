"""Rows outside the device as they are now, to be looked at: nothing of them changes."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.catch_up import CatchUp
from sharded_fc.outside import OutsideRows
from sharded_fc.partition import chunks
from sharded_fc.storage import Block, Rows, RowSlice
from sharded_fc.window import Window

_ROWS_AT_A_TIME = 65536


class PresentRows:
    """Copies of rows, brought to the present where steps have passed them by.

    Has what exports and statistics ask of `storage.Rows`. The rows in the table stay behind: to
    write all of them back would fill a sparse file and its journal.
    """

    def __init__(
        self, rows: OutsideRows, catch_up: CatchUp | None, *, step: Int[Tensor, ""]
    ) -> None:
        self.start, self.stop = rows.start, rows.stop
        self.width, self.dtype, self.device = rows.width, rows.dtype, rows.device
        self._rows = rows
        self._catch_up = catch_up
        self._step = step

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def wins(self) -> Int[Tensor, " rows"]:
        """As `storage.Rows.wins`; reads every row."""
        pieces = chunks(len(self), _ROWS_AT_A_TIME)
        return torch.cat([self._rows.read(start, stop).wins for start, stop in pieces])

    def view(self, start: int, stop: int) -> RowSlice:
        """The rows [start, stop), counted within this partition."""
        window = self._present(start, stop)
        return RowSlice(window.centre, window.state, self.start + start)

    def blocks(self, block: int) -> Iterator[Block]:
        """As `storage.Rows.blocks`."""
        for start, stop in chunks(len(self), block):
            window = self._present(start, stop)
            tensors = {"centre": window.centre, **window.state, "wins": window.wins.unsqueeze(1)}
            yield self.start + start, {name: tensor.cpu() for name, tensor in tensors.items()}

    def _present(self, start: int, stop: int) -> Window:
        window = self._rows.read(start, stop)
        if self._catch_up is not None:
            self._catch_up.on(window).bring_all(step=self._step)
        return window


ReadableRows = Rows | PresentRows
"""What can be looked at row by row."""
