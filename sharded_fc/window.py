"""The rows of one step, taken out of a table: to a pass they look like a whole partition's."""

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.storage import RowSlice
from sharded_fc.tables import Taken


class Window:
    """Some rows of the partition [start, stop), in tensors of their own.

    What `storage.Rows` has for a pass, it has too. Rows are told by their number within the
    partition; `places` says where in the tensors they lie.
    """

    def __init__(self, taken: Taken, *, start: int, stop: int) -> None:
        self.taken = taken
        self.start = start
        self.stop = stop
        self.centre = taken.centre
        self.state = taken.state
        self.wins = taken.wins
        self.counter = taken.counter
        self._number = taken.rows.to(taken.centre.device)
        self._global_number = self._number + start

    def __len__(self) -> int:
        return self.stop - self.start

    def ready(self, start: int, stop: int) -> None:
        """Nothing is to be done: rows that were taken have their values."""

    def at(self, index: Int[Tensor, " n"]) -> RowSlice:
        """The rows at these places."""
        return RowSlice(self.centre, self.state, self.start, index, self._global_number)

    def places(self, number: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Where rows lie; a number that was not taken gets any place. There must be one row."""
        return torch.searchsorted(self._number, number).clamp_(max=len(self._number) - 1)

    def numbers(self, index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The rows, counted within the partition, at these places."""
        return self._number[index]
