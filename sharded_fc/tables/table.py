"""What a pass asks of a rank's rows, wherever they are kept: to have a step's, and to change them.

taken = table.gather(rows)          # this step's rows, ascending, counted within the partition
table.prefetch(next_rows)           # read while this step computes
...                                 # taken.centre, taken.state, ... are read and written
table.scatter(taken)                # written back while the next step computes
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int64
from torch import Tensor

from sharded_fc.storage import Block

RowNumbers = Int64[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Taken:
    """Contiguous copies of some rows, on the table's device; valid until the prefetch after next.

    `scatter` writes all of them back.
    """

    rows: RowNumbers
    """Ascending numbers within the partition, on the host."""
    centre: Float[Tensor, "n dim"]
    state: dict[str, Tensor]
    wins: RowNumbers
    counter: RowNumbers
    """The step that each row is caught up to; 0 for a row that nobody has touched."""


@runtime_checkable
class Table(Protocol):
    """Rows of a partition. Whatever keeps them, the same calls give the same bits."""

    def prefetch(self, rows: RowNumbers) -> None:
        """Begin to read the rows that the next `gather` will ask for."""

    def gather(self, rows: RowNumbers) -> Taken:
        """Ascending, distinct rows as of the last `scatter`."""
        ...

    def scatter(self, taken: Taken) -> None:
        """Write back what the last `gather` gave. A step that is skipped leaves it out."""

    def blocks(self, block: int) -> Iterator[Block]:
        """Copies of all rows on the host, `block` rows at a time, as `storage.Rows.blocks`."""
        ...

    def fill(self, blocks: Iterable[Block], *, centres_only: bool = False) -> None:
        """Take over blocks of any partitioning and dtype, as `storage.Rows.fill`."""
