"""Rows that stay on their device: today's `storage.Rows` behind the interface of a table."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sharded_fc.reshard import overlap
from sharded_fc.storage import Block, Rows
from sharded_fc.tables.layout import COUNTERS
from sharded_fc.tables.runs import runs
from sharded_fc.tables.table import RowNumbers, Taken


class ResidentTable:
    """The rows of `rows`, with a counter each."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._counter = torch.zeros_like(rows.wins)

    def prefetch(self, rows: RowNumbers) -> None:
        """Nothing is to be done for rows on the device."""

    def gather(self, rows: RowNumbers) -> Taken:
        """See `table.Table`."""
        numbers = rows.numpy()
        for first, last in runs(numbers):
            self._rows.ready(int(numbers[first]), int(numbers[last - 1]) + 1)
        here = rows.to(self._rows.centre.device)
        taken = {name: tensor[here] for name, tensor in self._tensors().items()}
        centre, wins, counter = (taken.pop(name) for name in ("centre", *COUNTERS))
        return Taken(rows, centre, taken, wins, counter)

    def scatter(self, taken: Taken) -> None:
        """See `table.Table`."""
        here = taken.rows.to(self._rows.centre.device)
        changed = {"centre": taken.centre, "wins": taken.wins, "counter": taken.counter}
        for name, tensor in self._tensors().items():
            tensor[here] = {**taken.state, **changed}[name]

    def blocks(self, block: int) -> Iterator[Block]:
        """See `table.Table`."""
        for first, tensors in self._rows.blocks(block):
            start = first - self._rows.start
            counter = self._counter[start : start + len(tensors["centre"])]
            yield first, {**tensors, "counter": counter.unsqueeze(1).to("cpu", copy=True)}

    def fill(self, blocks: Iterable[Block], *, centres_only: bool = False) -> None:
        """See `table.Table`. Counters start at 0 where the blocks have none."""
        self._counter.zero_()
        counted = blocks if centres_only else map(self._take_counter, blocks)
        self._rows.fill(counted, centres_only=centres_only)

    def _take_counter(self, block: Block) -> Block:
        first, tensors = block
        place = overlap(
            block_start=first,
            block_rows=len(tensors["centre"]),
            start=self._rows.start,
            stop=self._rows.stop,
        )
        if place is not None and "counter" in tensors:
            theirs, ours = place
            self._counter[ours] = tensors["counter"][theirs, 0].to(self._counter.device)
        return block

    def _tensors(self) -> dict[str, Tensor]:
        rows = self._rows
        wins_and_counter = {"wins": rows.wins, "counter": self._counter}
        return {"centre": rows.centre, **rows.state, **wins_and_counter}
